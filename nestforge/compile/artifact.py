"""The artifact: a folder with model.onnx, labels.txt and a manifest that says how both were made."""

from __future__ import annotations

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nestforge.config import BuildConfig, tuples_from_lists
from nestforge.data.imagefolder import Label, read_labels
from nestforge.data.preprocess import Preprocess
from nestforge.engines import get_engine
from nestforge.engines.base import Session, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ArtifactError, EngineError
from nestforge.files import StrPath, hash_file, read_small_file, write_file_aside

MODEL_FILE, LABELS_FILE, MANIFEST_FILE = "model.onnx", "labels.txt", "manifest.json"
MAX_MANIFEST_BYTES = 16 << 20


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileRecord(_Record):
    """One input or output file."""

    sha256: str
    size_bytes: int


class Parity(_Record):
    """The built model against its float32 source on the same images.

    `cosine` is that of all logits taken together; `max_abs` the largest difference of a logit; `top1_agreement`
    the fraction of images with the same answer.
    """

    cosine: float
    max_abs: float
    top1_agreement: float
    images: int
    data: Literal["calibration", "random"]


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

    spared: tuple[str, ...]
    drop: float
    drop_high: float
    lost: int
    gained: int
    answers_changed: int
    throughput_ips: float
    kept_speed: float


class BoundRecord(_Record):
    """How a build was kept within `quantize.max_drop`: the layers spared in the end, and every choice measured."""

    spared: tuple[str, ...]
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


class RewriteGain(_Record):
    """One rewriting: the artifact against the same build with it switched the other way, one image at a time.

    `ratio` is the artifact's throughput over the other's, with its 95% interval.
    """

    name: str
    applied: bool
    places: int
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

    rewrites: tuple[RewriteGain, ...]
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
    rewrites: dict[str, int] = {}  # pass -> places it changed
    quantization: QuantizationRecord | None
    bound: BoundRecord | None = None
    kernels: dict[str, dict[str, int]]  # layer type -> execution precision -> count, as the engine reports it
    warnings: tuple[str, ...]
    tuning: TuningRecord | None = None
    explanation: Explanation | None = None


@dataclass(frozen=True)
class Artifact:
    """An artifact whose files match its manifest, or are wanted all the same."""

    folder: Path
    manifest: Manifest
    labels: tuple[Label, ...]
    model_sha256: str  # of the file as it is

    def open_session(
        self, *, batch: int = 1, streams: int = 1, threads: int | None = None, profile: bool = False
    ) -> Session:
        """Open the model on the engine it was built for; `threads` defaults to the cores this process may use.

        Raises:
            EngineError: the engine is missing or refuses, or the batch is not the one the model is fixed to.
        """
        manifest = self.manifest
        if manifest.fixed_batch not in (None, batch):
            raise EngineError(
                f"{self.folder} has a fixed batch of {manifest.fixed_batch}; use --batch {manifest.fixed_batch}"
            )
        settings = Settings(
            batch=batch,
            height=manifest.height,
            width=manifest.width,
            dtype=manifest.config.execution_dtype,
            streams=streams,
            threads=count_available_cores() if threads is None else threads,
            profile=profile,
        )
        return get_engine(manifest.config.engine).open(self.folder / MODEL_FILE, settings, sha256=self.model_sha256)

    def identify(self) -> dict[str, str]:
        """Return what the answers on given pixels depend on: the files as they are, the engine, this CPU."""
        config = self.manifest.config
        return {
            "model_sha256": self.model_sha256,
            "manifest_sha256": hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest(),
            config.engine: get_engine(config.engine).version,
            "cpu_flags": " ".join(read_machine().flags),
        }

    def find_tuning(self) -> TuningRecord | None:
        """Return what `tune` found, if it was on this CPU, with as many cores to use, and this engine's version."""
        tuning = self.manifest.tuning
        if tuning is None:
            return None
        here = (read_machine().cpu, count_available_cores(), get_engine(self.manifest.config.engine).version)
        return tuning if here == (tuning.cpu, tuning.cores, tuning.engine_version) else None

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return sum(record.size_bytes for record in self.manifest.outputs.values())

    def choose_batch(self, batch: int) -> int:
        """Return `batch`, or the batch the model is fixed to."""
        return self.manifest.fixed_batch or batch


def open_artifact(folder: StrPath, *, verify: bool = True) -> Artifact:
    """Open an artifact and check every file against its hash.

    Without `verify` a file that was changed is used all the same, after a warning; one that is missing is not.

    Raises:
        ArtifactError: no artifact, a damaged manifest, or files that do not match it.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ArtifactError(f"{folder} is no artifact: it has no {MANIFEST_FILE}; make one with 'nestforge build'")
    try:
        content = read_small_file(path, limit_bytes=MAX_MANIFEST_BYTES)
        if len(content) > MAX_MANIFEST_BYTES:
            raise ArtifactError(f"{path} is over {MAX_MANIFEST_BYTES >> 20} MiB; build the artifact again")
        manifest = Manifest.model_validate(tuples_from_lists(json.loads(content.decode("utf-8"))))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error).splitlines()[0]
        raise ArtifactError(f"{path} is damaged ({reason}); build the artifact again") from error
    if MODEL_FILE not in manifest.outputs:
        raise ArtifactError(f"{path} was changed: it lists no {MODEL_FILE}; build the artifact again")
    if manifest.preprocess.sha256 != manifest.preprocess_sha256:
        _refuse_change(f"{path} was changed: its preprocessing is not the one that was built", verify)
    found = {}
    for name, record in manifest.outputs.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise ArtifactError(f"{folder} is incomplete: {name} is missing; build the artifact again")
        found[name] = hash_file(file)
        if found[name] != record.sha256:
            _refuse_change(f"{file} is not the file that was built (its sha256 differs)", verify)
    quantization = manifest.quantization
    if quantization and not quantization.saturation_avoided and not read_machine().has_int8_dot_product:
        warnings.warn(
            f"{folder} was built without protection from 16-bit overflow, and this CPU has no int8 dot product: "
            "its answers are wrong here; build it again on this machine",
            stacklevel=2,
        )
    return Artifact(folder, manifest, _read_class_names(folder, manifest), found[MODEL_FILE])


def _read_class_names(folder: Path, manifest: Manifest) -> tuple[Label, ...]:
    if LABELS_FILE not in manifest.outputs:
        return tuple(Label(str(index)) for index in range(manifest.classes))
    labels = read_labels(folder / LABELS_FILE)
    if len(labels) != manifest.classes:
        raise ArtifactError(
            f"{folder / LABELS_FILE} has {len(labels)} lines but the model {manifest.classes} classes; build again"
        )
    return labels


def _refuse_change(problem: str, verify: bool) -> None:
    if verify:
        raise ArtifactError(f"{problem}; build the artifact again, or give --no-verify to use it as it is")
    warnings.warn(f"{problem}; it is used all the same", stacklevel=3)


def format_manifest(manifest: Manifest) -> str:
    """Return the manifest as it is written."""
    return json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write the manifest of a folder."""
    (folder / MANIFEST_FILE).write_text(format_manifest(manifest), encoding="utf-8", errors="backslashreplace")


def update_manifest(
    artifact: Artifact, *, tuning: TuningRecord | None = None, explanation: Explanation | None = None
) -> None:
    """Add what was measured of an artifact to its manifest, which is replaced as a whole.

    Raises:
        OutputError: the manifest cannot be written.
    """
    changes = {"tuning": tuning, "explanation": explanation}
    manifest = artifact.manifest.model_copy(update={name: value for name, value in changes.items() if value})
    with write_file_aside(artifact.folder / MANIFEST_FILE) as partial:
        partial.write_text(format_manifest(manifest), encoding="utf-8", errors="backslashreplace")


def record_file(path: Path) -> FileRecord:
    """Return hash and size of a file."""
    return FileRecord(sha256=hash_file(path), size_bytes=path.stat().st_size)


def inspect(artifact: StrPath, *, verify: bool = True) -> dict[str, Any]:
    """Return the manifest of an artifact whose files were checked, as JSON values; `verify` as `open_artifact`.

    Raises:
        ArtifactError: as `open_artifact`.
    """
    return open_artifact(artifact, verify=verify).manifest.model_dump(mode="json")
