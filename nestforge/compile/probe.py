"""What only a run shows of a graph: whether its batch is fixed inside, and what its scores are."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from nestforge.artifact.manifest import ScoreKind
from nestforge.compile.onnxfile import serialize
from nestforge.compile.scorekind import recognise_values
from nestforge.engines import get_engine
from nestforge.engines.base import Engine, Images, Logits, Settings
from nestforge.errors import EngineError, ModelError

MAX_BATCH_DIFFERENCE = 1e-3  # relative to the largest score: far above rounding, far below what mixing images does


@dataclass(frozen=True, kw_only=True)
class Probe:
    """The only batch a graph can run, or None where it runs any, and what its scores look like."""

    fixed_batch: int | None
    scores: ScoreKind


def probe_model(
    model: ir.Model, images_nchw: Images, *, engine: Engine, settings: Settings, fixed_batch: int | None
) -> Probe:
    """Run a graph on different images, at least two; `fixed_batch` is what the graph says of itself.

    One that takes any batch is run with two images at once and with each of them alone. Where that fails or gives other
    scores, it has a batch inside, as a reshape to a constant size does. ONNX Runtime has to agree, which takes a graph
    at its word where OpenVINO mends such a reshape, as long as it can run the graph.

    Raises:
        EngineError: the engine cannot run it.
        ModelError: it gives other scores for the same image each time.
    """
    data = serialize(model)
    scores = _run_apart(data, images_nchw, engine, replace(settings, batch=fixed_batch or 1))
    if fixed_batch is None and not _takes_two(data, images_nchw, scores, engine, settings):
        fixed_batch = 1
    if fixed_batch is None and engine.name != "onnxruntime":
        strict = get_engine("onnxruntime")
        try:
            expected = _run_apart(data, images_nchw[:2], strict, replace(settings, batch=1))
        except EngineError:  # it lacks an operator
            expected = None
        if expected is not None and not _takes_two(data, images_nchw, expected, strict, settings):
            fixed_batch = 1
    return Probe(fixed_batch=fixed_batch, scores=recognise_values(scores))


def _run_apart(data: bytes, images_nchw: Images, engine: Engine, settings: Settings) -> Logits:
    """Return the scores of images that run in batches of `settings.batch`, and check that they come again."""
    session = engine.open(data, settings)
    batches = [images_nchw[index : index + settings.batch] for index in range(0, len(images_nchw), settings.batch)]
    scores = [session.run(batch).copy() for batch in batches]
    if not _are_equal(session.run(batches[0]), scores[0]):
        raise ModelError(
            "the model gives other scores for the same image each time; export it for inference (model.eval())"
        )
    return np.concatenate(scores)


def _takes_two(data: bytes, images_nchw: Images, expected: Logits, engine: Engine, settings: Settings) -> bool:
    """Tell whether the first two images give at once what they give apart."""
    try:
        together = engine.open(data, replace(settings, batch=2)).run(images_nchw[:2])
    except EngineError:
        return False
    return _are_equal(together, expected[:2])


def _are_equal(found: Logits, expected: Logits) -> bool:
    """Tell whether scores are the same but for rounding."""
    if found.shape != expected.shape:
        return False
    tolerance = MAX_BATCH_DIFFERENCE * float(np.abs(expected).max())
    return np.allclose(found, expected, rtol=0, atol=tolerance, equal_nan=True)
