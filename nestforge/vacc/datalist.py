"""Run an artifact over a list of npz images: one result file per image, resumable after a kill."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nestforge.artifact.artifact import Artifact
from nestforge.artifact.manifest import Manifest
from nestforge.data.loader import Unreadable, UnreadableImage
from nestforge.errors import ConfigError, NestForgeError
from nestforge.files import atomic_write, read_small_file, remove_leftovers
from nestforge.inference.pipeline import run_in_order
from nestforge.inference.scores import probabilities_from_scores
from nestforge.progress import Progress, no_progress
from nestforge.vacc.npz import OUTPUT_KEY, RUN_FILE, hash_list, read_datalist, read_image_npz, write_npz
from nestforge.vacc.vamp import VampSettings
from nestforge.vacc.vdsp import Vdsp
from nestforge.vacc.workers import open_pool

MAX_MARKER_BYTES = 1 << 16


@dataclass(frozen=True, kw_only=True)
class VampRun:
    """The outcome of a run over a list: `skipped` results existed already, and `unreadable` npz files have none."""

    output: Path
    written: int
    skipped: int
    unreadable: tuple[UnreadableImage, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Share:
    """The part of a list that one process works on: indices in the list, and their files."""

    settings: VampSettings
    output: Path
    total: int
    indices: tuple[int, ...]
    paths: tuple[Path, ...]


def name_result(index: int, total: int) -> str:
    """Return the file name of result `index` of `total`: sorting the names gives the list's order."""
    return f"output_{index:0{max(6, len(str(total - 1)))}d}.npz"


def run_datalist(settings: VampSettings, datalist: Path, output: Path, *, progress: Progress = no_progress) -> VampRun:
    """Write one npz with ``output_0``, (classes,) float32 probabilities, for every npz of the list.

    Existing results of the same artifact, vdsp file and list are kept. An npz that cannot be used is reported and has
    no result.

    Raises:
        ConfigError: there is no vdsp file, it does not fit, or the output folder holds another run.
        DataError, ArtifactError, EngineError: list or artifact cannot be used.
    """
    if settings.vdsp is None:
        raise ConfigError("--datalist needs --vdsp_params: the file says how images become the network's input")
    manifest = settings.artifact.manifest
    folder = read_datalist(datalist)
    total = len(folder.paths)
    _claim_output(output, _fingerprint_run(settings.artifact, settings.vdsp, folder.paths))
    todo = [index for index in range(total) if not (output / name_result(index, total)).is_file()]
    processes = min(settings.processes, max(1, len(todo)))
    shares = [
        _Share(settings, output, total, tuple(part), tuple(folder.paths[index] for index in part))
        for part in np.array_split(np.array(todo, int), processes)
        if len(part)
    ]
    unreadable: dict[int, str] = {}
    with progress("running", len(todo)) as advance:
        for index, reason in _work(shares):
            advance(1)
            if reason is not None:
                unreadable[index] = reason
    return VampRun(
        output=output,
        written=len(todo) - len(unreadable),
        skipped=total - len(todo),
        unreadable=tuple(
            UnreadableImage(image=str(folder.paths[index]), reason=reason)
            for index, reason in sorted(unreadable.items())
        ),
        warnings=(*settings.warnings, *_find_calibrated(manifest, folder.paths)),
    )


def _work(shares: Sequence[_Share]) -> Iterator[tuple[int, str | None]]:
    if len(shares) <= 1:
        for share in shares:
            yield from _run_share(share)
        return
    with open_pool(len(shares)) as pool:
        for outcomes in pool.map(_finish_share, shares):
            yield from outcomes


def _finish_share(share: _Share) -> list[tuple[int, str | None]]:
    return list(_run_share(share))


def _run_share(share: _Share) -> Iterator[tuple[int, str | None]]:
    """Yield (index in the list, None or the reason why there is no result) as results are written."""
    settings = share.settings
    artifact, vdsp, parallelism = settings.artifact, settings.vdsp, settings.parallelism
    assert vdsp is not None  # run_datalist checks it
    session = artifact.open_session(parallelism)
    loaders = max(parallelism.threads, parallelism.streams)
    classes = artifact.manifest.classes

    def load(path: Path) -> npt.NDArray[np.float32]:
        return vdsp.apply(read_image_npz(path))

    for item in run_in_order(session, share.paths, load, workers=loaders, classes=classes):
        if isinstance(item, Unreadable):
            yield share.indices[item.index], item.reason
            continue
        rows = probabilities_from_scores(item.logits, artifact.manifest.scores)
        for position, row in zip(item.indices, rows, strict=True):
            index = share.indices[position]
            write_npz(share.output / name_result(index, share.total), OUTPUT_KEY, row.astype(np.float32))
            yield index, None


def _fingerprint_run(artifact: Artifact, vdsp: Vdsp, paths: Sequence[Path]) -> dict[str, str]:
    return {
        "model_sha256": artifact.model_sha256,
        "vdsp_params_sha256": hashlib.sha256(vdsp.model_dump_json().encode()).hexdigest(),
        "datalist_sha256": hash_list(paths),
    }


def _claim_output(output: Path, run: dict[str, str]) -> None:
    """Mark the folder as the output of this run, or check that it is.

    Raises:
        ConfigError: the folder holds something else.
        NestForgeError: the folder cannot be used.
    """
    marker = output / RUN_FILE
    try:
        output.mkdir(parents=True, exist_ok=True)
        remove_leftovers(output)
        earlier = json.loads(read_small_file(marker, limit_bytes=MAX_MARKER_BYTES)) if marker.exists() else None
        occupied = any(path.suffix == ".npz" for path in output.iterdir())
    except OSError as error:
        raise NestForgeError(f"cannot use {output}: {error.strerror}; choose another --path_output") from error
    except ValueError as error:
        raise ConfigError(f"{marker} is damaged; delete {output} or choose another --path_output") from error
    if earlier is None and occupied:
        raise ConfigError(f"{output} holds npz files of something else; delete it, or choose another --path_output")
    if earlier is not None and earlier != run:
        raise ConfigError(
            f"{output} holds results of another artifact, vdsp file or list; delete it, or choose another --path_output"
        )
    if earlier is None:
        with atomic_write(marker) as partial:
            partial.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _find_calibrated(manifest: Manifest, paths: Sequence[Path]) -> tuple[str, ...]:
    """Return a warning if images of the list, by class folder and name, were used for calibration."""
    if manifest.config.calibration is None:
        return ()
    prefix = f"{manifest.config.calibration.data}:"
    calibrated = {
        Path(name.removeprefix(prefix)).with_suffix("").as_posix()
        for name in manifest.inputs
        if name.startswith(prefix)
    }
    both = sum(f"{path.parent.name}/{path.stem}" in calibrated for path in paths)
    if not both:
        return ()
    return (
        f"calibration: {both} of the {len(paths)} listed images are calibration images of this artifact; "
        "accuracy on them would be optimistic",
    )
