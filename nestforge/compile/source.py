"""The float32 graph that a build starts from."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from nestforge.artifact.manifest import FileRecord, record_file
from nestforge.compile.export import ResolvedWeights, resolve_weights
from nestforge.compile.onnxfile import ImageClassifier, append_softmax, inspect_classifier, read_onnx
from nestforge.config import BuildConfig
from nestforge.data.preprocess import Preprocess, make_reference_preprocess
from nestforge.errors import ConfigError
from nestforge.networks.graph import build_graph
from nestforge.networks.zoo import Variant, get_variant
from nestforge.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Source:
    """A graph, the files it came from, and what it is fed."""

    model: ir.Model
    name: str
    inputs: dict[str, FileRecord]
    preprocess: Preprocess
    classifier: ImageClassifier
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
        model, name, inputs, preprocess = (
            read_onnx(path),
            path.stem,
            {section.onnx: record_file(path)},
            config.preprocess,
        )
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
    if config.append_softmax:
        append_softmax(model)
    classifier = inspect_classifier(model)
    height, width = _check_geometry(preprocess, classifier)
    return Source(
        model=model,
        name=name,
        inputs=inputs,
        preprocess=preprocess,
        classifier=classifier,
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
