"""The artifact, a folder with model.onnx, labels.txt and a manifest: opened, verified, updated."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

from nestforge.artifact.manifest import (
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Explanation,
    Manifest,
    TuningRecord,
    format_manifest,
)
from nestforge.data.labels import Label, number_labels, read_artifact_labels
from nestforge.engines import get_engine
from nestforge.engines.base import Parallelism, Session, Settings
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ArtifactError, EngineError
from nestforge.files import StrPath, atomic_write, hash_file
from nestforge.schema import parse, read_json

MAX_MANIFEST_BYTES = 16 << 20


@dataclass(frozen=True)
class Artifact:
    """An opened artifact; its files match its manifest unless verification was off."""

    folder: Path
    manifest: Manifest
    labels: tuple[Label, ...]
    model_sha256: str  # of the file as it is

    def open_session(self, parallelism: Parallelism | None = None, *, profile: bool = False) -> Session:
        """Open the model on the engine it was built for; by default for one image at a time on all available cores.

        Raises:
            EngineError: the engine is missing or refuses, or the batch is not the one the model is fixed to.
        """
        manifest = self.manifest
        chosen = parallelism or Parallelism.make(batch=self.choose_batch(1))
        if manifest.fixed_batch not in (None, chosen.batch):
            raise EngineError(
                f"{self.folder} has a fixed batch of {manifest.fixed_batch}; use --batch {manifest.fixed_batch}"
            )
        settings = Settings(
            batch=chosen.batch,
            height=manifest.height,
            width=manifest.width,
            dtype=manifest.config.execution_dtype,
            streams=chosen.streams,
            threads=chosen.threads,
            profile=profile,
        )
        return get_engine(manifest.config.engine).open(self.folder / MODEL_FILE, settings, sha256=self.model_sha256)

    def fingerprint(self) -> dict[str, str]:
        """Return what predictions depend on besides the pixels: the files as they are, the engine, this CPU."""
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

    Without `verify` a changed file is used, with a warning; a missing file is still an error.

    Raises:
        ArtifactError: no artifact, a damaged manifest, or files that do not match it.
    """
    folder = Path(folder)
    path = folder / MANIFEST_FILE
    if not path.is_file():
        raise ArtifactError(
            f"{folder} is not a nestforge artifact: it has no {MANIFEST_FILE}; make one with 'nestforge build'"
        )
    remedy = "build the artifact again"
    data = read_json(path, limit_bytes=MAX_MANIFEST_BYTES, kind="manifest", remedy=remedy, error=ArtifactError)
    manifest = parse(Manifest, data, source=f"{path} is damaged; {remedy}", error=ArtifactError)
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
            "its predictions are wrong here; build it again on this machine",
            stacklevel=2,
        )
    return Artifact(folder, manifest, _read_class_names(folder, manifest), found[MODEL_FILE])


def _read_class_names(folder: Path, manifest: Manifest) -> tuple[Label, ...]:
    if LABELS_FILE not in manifest.outputs:
        return number_labels(manifest.classes)
    labels = read_artifact_labels(folder / LABELS_FILE)
    if len(labels) != manifest.classes:
        raise ArtifactError(
            f"{folder / LABELS_FILE} has {len(labels)} lines but the model {manifest.classes} classes; build again"
        )
    return labels


def _refuse_change(problem: str, verify: bool) -> None:
    if verify:
        raise ArtifactError(f"{problem}; build the artifact again, or give --no-verify to use it as it is")
    warnings.warn(f"{problem}; it is used anyway", stacklevel=3)


def update_manifest(
    artifact: Artifact, *, tuning: TuningRecord | None = None, explanation: Explanation | None = None
) -> None:
    """Add measurements of an artifact to its manifest, which is replaced atomically.

    Raises:
        NestForgeError: the manifest cannot be written.
    """
    changes = {"tuning": tuning, "explanation": explanation}
    manifest = artifact.manifest.model_copy(update={name: value for name, value in changes.items() if value})
    with atomic_write(artifact.folder / MANIFEST_FILE) as partial:
        partial.write_text(format_manifest(manifest), encoding="utf-8", errors="backslashreplace")


def inspect(artifact: StrPath, *, verify: bool = True) -> Manifest:
    """Return the manifest of an artifact whose files were checked; `verify` as `open_artifact`.

    Raises:
        ArtifactError: as `open_artifact`.
    """
    return open_artifact(artifact, verify=verify).manifest
