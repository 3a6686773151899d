"""The records of an artifact's manifest: what is known about it, strictly typed, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nestforge.config import BuildConfig
from nestforge.data.preprocess import Preprocess
from nestforge.engines.base import Parallelism
from nestforge.files import hash_file

MODEL_FILE, LABELS_FILE, MANIFEST_FILE = "model.onnx", "labels.txt", "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One input or output file."""

    sha256: str
    size_bytes: int


ScoreKind = Literal["logits", "probabilities", "log_probabilities", "sigmoid"]


class ModelInterface(_Record):
    """What the source model takes and gives; the artifact takes (B, 3, H, W) float32 and gives (B, classes) float32.

    `output_shape` is that for one batch. `widened` lists the float types that became float32.
    """

    input_layout: Literal["NCHW", "NHWC", "CHW", "HWC"]
    input_dtype: str
    input_channels: int
    output: str
    output_shape: tuple[int, ...]
    unused_outputs: tuple[str, ...] = ()
    widened: tuple[str, ...] = ()


class Parity(_Record):
    """The built model against its float32 source on the same images.

    `cosine` is that of all logits taken together; `max_abs` the largest difference of a logit; `top1_agreement`
    the fraction of images with the same prediction. `problems` say what looks wrong; they are among the warnings too.
    """

    cosine: float
    max_abs: float
    top1_agreement: float
    images: int
    data: Literal["calibration", "random"]
    problems: tuple[str, ...] = ()


class QuantizationRecord(_Record):
    """What was quantized, and how weights were kept from overflowing."""

    activations: int
    weighted_layers: int
    float_weighted_layers: tuple[str, ...]
    saturation_avoided: bool


class FrontierPoint(_Record):
    """A choice of layers left in float, measured on the validation set: rates are fractions of 1.

    `drop` is float32's top-1 minus int8's, `drop_high` the upper end of its one-sided 95% interval (paired).
    `kept_speed` is the throughput as a fraction of that with no layer kept in float.
    """

    kept_in_float: tuple[str, ...]
    drop: float
    drop_high: float
    lost: int
    gained: int
    changed_predictions: int
    throughput_ips: float
    kept_speed: float


class AccuracyControlRecord(_Record):
    """How a build satisfied `quantize.max_drop`: the layers kept in float, and every choice that was measured."""

    kept_in_float: tuple[str, ...]
    max_drop_pp: float
    validation: str
    images: int
    frontier: tuple[FrontierPoint, ...]


class TunedParallelism(_Record):
    """What was measured with one parallelism: images per second, and the median latency of a request."""

    parallelism: Parallelism
    throughput_ips: float
    latency_ms: float


class TuningRecord(_Record):
    """The best parallelism found for latency and for throughput, and the machine on which both were measured."""

    cpu: str
    cores: int
    engine_version: str
    latency: TunedParallelism
    throughput: TunedParallelism


class PassSpeedup(_Record):
    """One graph pass: the artifact against the same build with the pass switched, one image at a time.

    `ratio` is the artifact's throughput over the other's, with its 95% interval.
    """

    name: str
    applied: bool
    matches: int
    latency_ms: float
    other_latency_ms: float
    ratio: float
    low: float
    high: float


class KernelTime(_Record):
    """Milliseconds per image that the engine spends in layers of one type and execution precision."""

    layer_type: str
    precision: str
    count: int
    time_ms: float


class Explanation(_Record):
    """The speedup of each graph pass and where time goes, measured on this machine."""

    passes: tuple[PassSpeedup, ...]
    kernels: tuple[KernelTime, ...]


class Manifest(_Record):
    """Everything that is known about an artifact."""

    format: Literal[1]
    name: str
    config: BuildConfig
    preprocess: Preprocess
    preprocess_sha256: str
    classes: int
    height: int
    width: int
    fixed_batch: int | None  # declared by the model, or found by running it
    interface: ModelInterface
    scores: ScoreKind  # of the artifact
    kernel_macs: int
    inputs: dict[str, FileRecord]
    outputs: dict[str, FileRecord]
    versions: dict[str, str]
    cpu_flags: tuple[str, ...]
    parity: Parity
    passes: dict[str, int] = {}  # pass -> matches that it changed
    quantization: QuantizationRecord | None
    accuracy_control: AccuracyControlRecord | None = None
    kernels: dict[str, dict[str, int]]  # layer type -> execution precision -> count, as the engine reports it
    weighted_types: tuple[str, ...] = ()  # the layer types among them that are convolutions and matrix products
    warnings: tuple[str, ...]
    tuning: TuningRecord | None = None
    explanation: Explanation | None = None


def format_manifest(manifest: Manifest) -> str:
    """Return the manifest as it is written."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest of a folder."""
    (folder / MANIFEST_FILE).write_text(format_manifest(manifest), encoding="utf-8", errors="backslashreplace")


def record_file(path: Path) -> FileRecord:
    """Return hash and size of a file."""
    return FileRecord(sha256=hash_file(path), size_bytes=path.stat().st_size)
