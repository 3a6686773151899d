"""A self-contained HTML page about one or more artifacts: no network access, no script, no other file."""

from __future__ import annotations

import datetime
import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nestforge
from nestforge.accuracy.sensitivity import Sensitivity
from nestforge.artifact.artifact import Artifact, open_artifact
from nestforge.checks import check_range
from nestforge.engines.base import MAX_PARALLELISM
from nestforge.engines.machine import count_available_cores, read_machine
from nestforge.errors import ConfigError, NestForgeError
from nestforge.files import StrPath, atomic_write
from nestforge.measure.evaluate import Evaluation, evaluate_all
from nestforge.measure.paired import ClassAccuracy, rank_classes
from nestforge.measure.scaling import Speed, measure_scaling
from nestforge.pages.canvas import COLOURS, STYLE
from nestforge.pages.figures import draw_accuracy, draw_sensitivity, draw_speed, write_evaluate
from nestforge.pages.gallery import make_cards
from nestforge.pages.sensitivity import read_sensitivity
from nestforge.progress import Progress, no_progress
from nestforge.tables.builds import list_manifest_rows
from nestforge.tables.layout import make_pairs_table, shorten_path

if TYPE_CHECKING:
    from rich.console import Console

GALLERY = 24  # images in a page
CLASSES = 12  # rows of a table of classes
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, kw_only=True)
class Report:
    """A page and what it shows; `reference` is the artifact that the others are compared with."""

    page: Path
    size_bytes: int
    artifacts: tuple[Path, ...]
    reference: Path
    evaluations: tuple[Evaluation, ...]
    speeds: tuple[Speed, ...]
    sensitivities: tuple[Sensitivity, ...]


def report(
    artifacts: Sequence[StrPath],
    *,
    output: StrPath = "report.html",
    dataset: StrPath | None = None,
    limit: int | None = None,
    allow_overlap: bool = False,
    sensitivity: Sequence[StrPath] = (),
    bench: bool = True,
    seconds: float = 2.0,
    max_batch: int = 8,
    threads: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure artifacts side by side and write one self-contained HTML page.

    The reference is the first float32 artifact or, if there is none, the first one. With `dataset`, which must be
    labelled, the page shows accuracy and changed predictions (`limit` and `allow_overlap` as in `evaluate`). With
    `bench` it shows the speed at batches 1, 2, 4, ... up to `max_batch`, measured for `seconds` each. `sensitivity`
    names files that `nestforge sensitivity --json` wrote. An existing page is replaced.

    Raises:
        ConfigError: no artifact, an artifact given twice, different labels, or a setting out of range.
        ArtifactError: as `open_artifact`.
        DataError: as `evaluate`, or a file that is not a sensitivity report.
        NestForgeError: the page cannot be written.
    """
    page = Path(output)
    _check(page, artifacts, seconds=seconds, max_batch=max_batch, threads=threads)
    if limit is not None and dataset is None:
        raise ConfigError("limit chooses images of a dataset; give a dataset too")
    opened = [open_artifact(path) for path in artifacts]
    sensitivities = tuple(read_sensitivity(Path(path)) for path in sensitivity)
    reference = next((index for index, one in enumerate(opened) if one.manifest.config.dtype == "fp32"), 0)
    evaluations: list[Evaluation] = []
    if dataset is not None:
        evaluations = evaluate_all(
            artifacts, dataset, vs=artifacts[reference], limit=limit, allow_overlap=allow_overlap, progress=progress
        )
    speeds: list[Speed] = []
    if bench:
        batches = [1 << power for power in range(max_batch.bit_length())]
        speeds = measure_scaling(
            opened,
            reference=reference,
            batches=batches,
            threads=count_available_cores() if threads is None else threads,
            seconds=seconds,
            progress=progress,
        )
    with progress("drawing the page", None):
        options = ["--limit", str(limit)] if limit is not None else []
        options += ["--allow-overlap"] if allow_overlap else []
        text = render_page(opened, reference, evaluations, speeds, sensitivities, options=options)
    data = text.encode("utf-8", "replace")
    with atomic_write(page) as partial:
        partial.write_bytes(data)
    return Report(
        page=page,
        size_bytes=len(data),
        artifacts=tuple(one.folder for one in opened),
        reference=opened[reference].folder,
        evaluations=tuple(evaluations),
        speeds=tuple(speeds),
        sensitivities=sensitivities,
    )


def show_report(result: Report, console: Console) -> None:
    """Print where the page is, and what it is based on."""
    evaluated = f"{result.evaluations[0].images:,} images" if result.evaluations else "not measured; give --dataset"
    batches = ", ".join(str(row.batch) for row in result.speeds[0].batches) if result.speeds else ""
    rows = [
        ("page", f"{result.page} ({result.size_bytes / 1e6:.1f} MB, opens without a network)"),
        ("artifacts", ", ".join(map(str, result.artifacts))),
        ("reference", str(result.reference)),
        ("accuracy", evaluated),
        ("speed", f"batches {batches}, {result.speeds[0].threads} threads" if result.speeds else "not measured"),
    ]
    console.print(make_pairs_table("report", rows))


def _check(page: Path, artifacts: Sequence[StrPath], *, seconds: float, max_batch: int, threads: int | None) -> None:
    if page.is_dir():
        raise NestForgeError(f"cannot write {page}: it is a folder; name a file")
    try:
        tempfile.TemporaryFile(dir=page.parent).close()  # fail before minutes of measuring, not after
    except OSError as error:
        reason = error.strerror or error
        raise NestForgeError(f"cannot write {page}: {reason}; name a file in a folder that is writable") from error
    if not artifacts:
        raise ConfigError("no artifact given; name one or more folders that 'nestforge build' made")
    folders = [Path(path).resolve() for path in artifacts]
    twice = next((path for path in folders if folders.count(path) > 1), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice; name each artifact once")
    check_range("seconds", seconds, 0.1, 86_400)
    for name, value in (("max-batch", max_batch), ("threads", threads)):
        if value is not None:
            check_range(name, value, 1, MAX_PARALLELISM)


def render_page(
    artifacts: Sequence[Artifact],
    reference: int,
    evaluations: Sequence[Evaluation],
    speeds: Sequence[Speed],
    sensitivities: Sequence[Sensitivity],
    *,
    options: Sequence[str] = (),
) -> str:
    """Return the page as HTML, with every text escaped. `options` are the command-line options of `evaluate`."""
    import jinja2
    from markupsafe import Markup

    def clean(value: Any) -> Any:
        return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", value) if type(value) is str else value

    names = name_artifacts([artifact.folder for artifact in artifacts])
    others = [index for index in range(len(artifacts)) if index != reference]
    folders = [str(artifact.folder) for artifact in artifacts]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=clean,
    )
    environment.filters["svg"] = Markup
    environment.filters["shorten"] = shorten_path
    share = max(GALLERY // max(len(others), 1), 1)
    return environment.get_template("report.html.j2").render(
        version=nestforge.__version__,
        plot_style=STYLE,
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        machine=read_machine(),
        artifacts=artifacts,
        names=names,
        colours=len(COLOURS),
        reference=reference,
        others=others,
        evaluations=evaluations,
        allow_overlap="--allow-overlap" in options,
        speeds=speeds,
        accuracy=draw_accuracy(evaluations, names, reference, options) if evaluations else [],
        galleries={
            index: make_cards(vs.changed, artifacts[index].manifest.preprocess, share)
            for index in others
            if evaluations and (vs := evaluations[index].vs)
        },
        worst={index: _choose_worst(result.classes) for index, result in enumerate(evaluations)},
        change_commands={
            index: write_evaluate(
                evaluations[index], artifacts[reference].folder, [*options, "--changes", "changes.csv"]
            )
            for index in others
            if evaluations
        },
        sensitivities=[
            (found, draw_sensitivity(found, index, _find_colour(found, folders)))
            for index, found in enumerate(sensitivities)
        ],
        speed_figures=draw_speed(speeds, names, reference) if speeds else [],
        manifests=tabulate_manifests(artifacts),
        inspect_commands=[shlex.join(["nestforge", "inspect", folder]) for folder in folders],
        manifest_texts=[
            json.dumps(artifact.manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
            for artifact in artifacts
        ],
    )


def name_artifacts(folders: Sequence[Path]) -> list[str]:
    """Return the shortest ends of the paths that distinguish all of them."""
    parts = [folder.absolute().parts for folder in folders]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def tabulate_manifests(artifacts: Sequence[Artifact]) -> list[tuple[str, list[str]]]:
    """Return the rows of all manifests side by side; values of the same name share a cell."""
    columns: list[dict[str, list[str]]] = []
    for artifact in artifacts:
        column: dict[str, list[str]] = {}
        last = ""
        for name, value in list_manifest_rows(artifact.manifest):
            last = name or last
            column.setdefault(last, []).append(value)
        columns.append(column)
    rows = dict.fromkeys(name for column in columns for name in column)
    return [(name, ["\n".join(column.get(name, ["-"])) for column in columns]) for name in rows]


def _find_colour(found: Sensitivity, folders: Sequence[str]) -> int:
    """Return the index of the artifact that a sensitivity report is about, or their number if it is none of them."""
    wanted = Path(found.artifact_or_config).absolute()
    matching = [index for index, folder in enumerate(folders) if Path(folder).absolute() == wanted]
    return matching[0] if matching else len(folders)


def _choose_worst(classes: Sequence[ClassAccuracy]) -> list[ClassAccuracy]:
    """Return the classes that lost most or, if there is nothing to compare with, those with the lowest top-1."""
    return [row for row in rank_classes(classes) if row.difference is None or row.difference < 0][:CLASSES]
