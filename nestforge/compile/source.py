"""The float32 graph that a build starts from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from nestforge.artifact.manifest import FileRecord, ScoreKind, record_file
from nestforge.compile.classifier import DEFAULT_SIDE, ImageClassifier, adapt_classifier
from nestforge.compile.export import ResolvedWeights, resolve_weights
from nestforge.compile.filledweights import fill_weights
from nestforge.compile.images import make_random_images
from nestforge.compile.labels import read_config_labels
from nestforge.compile.onnxfile import read_onnx_file
from nestforge.compile.operators import name_foreign_operators, refuse_foreign_operators
from nestforge.compile.pixels import fit_preprocess
from nestforge.compile.probe import probe_model
from nestforge.compile.scorekind import append_softmax
from nestforge.config import BuildConfig
from nestforge.data.preprocess import Preprocess, make_reference_preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Settings
from nestforge.engines.machine import count_available_cores
from nestforge.errors import ConfigError
from nestforge.networks.graph import build_graph
from nestforge.networks.zoo import Variant, get_variant
from nestforge.progress import Progress

PROBE_IMAGES = 4  # that show what a graph's scores are


@dataclass(frozen=True, kw_only=True)
class Source:
    """A graph, the files it came from, and what it is fed."""

    model: ir.Model
    name: str
    inputs: dict[str, FileRecord]
    preprocess: Preprocess
    classifier: ImageClassifier
    scores: ScoreKind
    height: int
    width: int


def load_source(config: BuildConfig, progress: Progress) -> Source:
    """Read or make the graph that a build file names.

    Which of several weights in a checkpoint were taken is a warning.

    Raises:
        ModelError, ConfigError, DataError: it cannot be read, or does not go with the preprocessing, or is not the
            published network and no preprocessing is stated.
    """
    section = config.model
    if section.onnx is not None:
        path = Path(section.onnx)
        assert config.preprocess is not None  # BuildConfig checks it
        file = read_onnx_file(path)
        model, name, preprocess = file.model, path.stem, config.preprocess
        inputs = {section.onnx: record_file(path)} | {str(data): record_file(data) for data in file.data_files}
    else:
        variant = get_variant(str(section.name))
        weights = resolve_weights(
            variant, weights=Path(section.weights) if section.weights else None, seed=section.seed, progress=progress
        )
        for note in weights.notes:
            warnings.warn(f"{weights.path}: {note}", stacklevel=2)
        if config.preprocess is None:
            _check_published_classes(weights, variant)
        inputs = {str(weights.path): record_file(weights.path)} if weights.path else {}
        preprocess = config.preprocess or make_reference_preprocess(variant.image_size)
        model, name = build_graph(variant, weights.weights), variant.name
    if config.dtype == "int8":
        fill_weights(model)
    labels = read_config_labels(config)
    height, width = preprocess.output_hw or (DEFAULT_SIDE, DEFAULT_SIDE)
    with name_foreign_operators(model):
        classifier = adapt_classifier(
            model,
            output=section.output,
            labels=len(labels) if labels is not None else None,
            height=height,
            width=width,
            channels=preprocess.channels,
        )
    if config.dtype == "int8":
        refuse_foreign_operators(model)
    preprocess = fit_preprocess(preprocess, classifier.interface)
    height, width = _check_geometry(preprocess, classifier)
    scores = classifier.scores or "logits"
    if section.onnx is not None:
        with name_foreign_operators(model):
            found = probe_model(
                model,
                make_random_images(preprocess, (height, width), PROBE_IMAGES),
                engine=get_engine(config.engine),
                settings=Settings(height=height, width=width, threads=count_available_cores()),
                fixed_batch=classifier.fixed_batch,
            )
        classifier = replace(classifier, fixed_batch=found.fixed_batch)
        scores = classifier.scores or found.scores
    if config.append_softmax and scores in ("logits", "log_probabilities"):
        append_softmax(model)
        scores = "probabilities"
    return Source(
        model=model,
        name=name,
        inputs=inputs,
        preprocess=preprocess,
        classifier=classifier,
        scores=scores,
        height=height,
        width=width,
    )


def _check_published_classes(weights: ResolvedWeights, variant: Variant) -> None:
    """Refuse to take the published preprocessing for a network that was not trained on the published classes.

    Its images were most likely prepared in another way, and nothing later would show it: a build is compared with the
    network it came from on the same images.
    """
    if weights.classes == variant.num_classes:
        return
    crop, whole = f"{{op: ecenter_crop, size: {variant.image_size}}}", "{op: resize, size: [64, 64]}"
    raise ConfigError(
        f"{weights.source} has {weights.classes} classes but {variant.name} was published with {variant.num_classes}: "
        f"state how its images are prepared, as 'preprocess: {{ops: [{crop}]}}' for the published crop, or "
        f"'preprocess: {{ops: [{whole}]}}' for whole images of, say, 64x64 pixels"
    )


def _check_geometry(preprocess: Preprocess, classifier: ImageClassifier) -> tuple[int, int]:
    assert preprocess.output_hw is not None  # BuildConfig checks it
    height, width = preprocess.output_hw
    fixed = (classifier.fixed_height or height, classifier.fixed_width or width)
    if fixed != (height, width):
        raise ConfigError(f"preprocessing gives {height}x{width} pixels but the model takes {fixed[0]}x{fixed[1]}")
    return height, width
