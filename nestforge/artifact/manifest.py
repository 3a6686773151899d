"""The records of an artifact's manifest: what is known about it, strictly typed, and how they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from nestforge.config import BuildConfig
from nestforge.data.preprocess import Preprocess
from nestforge.files import hash_file

MODEL_FILE, LABELS_FILE, MANIFEST_FILE = "model.onnx", "labels.txt", "manifest.json"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One input or output file."""

    sha256: str
    size_bytes: int


class Parity(_Record):
    """The built model against its float32 source on the same images.

    `cosine` is that of all logits taken together; `max_abs` the largest difference of a logit; `top1_agreement`
    the fraction of images with the same answer. `problems` say what looks wrong; they are among the warnings too.
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

    `drop` is float32's top-1 minus ours, `drop_high` the upper end of its one-sided 95% interval (paired).
    `kept_speed` is the throughput as a fraction of that with no layer spared.
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
    """How a build was kept within `quantize.max_drop`: the layers spared in the end, and every choice measured."""

    kept_in_float: tuple[str, ...]
    max_drop_pp: float
    validation: str
    images: int
    frontier: tuple[FrontierPoint, ...]


class TunedArrangement(_Record):
    """Requests of `batch` images on `streams` that share `threads`: images a second, and the median request."""

    batch: int
    streams: int
    threads: int
    throughput_ips: float
    latency_ms: float


class TuningRecord(_Record):
    """The best arrangements found, and the machine they were found on: they say nothing about another one."""

    cpu: str
    cores: int
    engine_version: str
    latency: TunedArrangement
    throughput: TunedArrangement


class PassSpeedup(_Record):
    """One rewriting: the artifact against the same build with it switched the other way, one image at a time.

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
    """Milliseconds an image that the engine spends in layers of one type and execution precision."""

    layer_type: str
    precision: str
    count: int
    time_ms: float


class Explanation(_Record):
    """What rewritings bought and where time goes, as measured on the machine that asked."""

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
    fixed_batch: int | None
    gives_probabilities: bool
    kernel_macs: int
    inputs: dict[str, FileRecord]
    outputs: dict[str, FileRecord]
    versions: dict[str, str]
    cpu_flags: tuple[str, ...]
    parity: Parity
    passes: dict[str, int] = {}  # pass -> places it changed
    quantization: QuantizationRecord | None
    accuracy_control: AccuracyControlRecord | None = None
    kernels: dict[str, dict[str, int]]  # layer type -> execution precision -> count, as the engine reports it
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
