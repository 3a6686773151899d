"""The page without a browser: well-formed, self-contained, escaped, and true to what was measured."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nestforge.accuracy.sensitivity import LayerSensitivity, Sensitivity
from nestforge.artifact.artifact import open_artifact
from nestforge.data.preprocess import read_image
from nestforge.errors import ArtifactError, ConfigError, DataError, NestForgeError
from nestforge.files import write_json
from nestforge.measure.evaluate import evaluate
from nestforge.pages.gallery import encode_image
from nestforge.pages.report import name_artifacts, report
from nestforge.pages.sensitivity import draw_gain, draw_noise, read_sensitivity
from nestforge.progress import Advance
from tests.support.pages import HOSTILE_ARTIFACT, HOSTILE_IMAGE, HOSTILE_LABEL, LAYERS, Written

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Tags with their attributes, the text outside style, and whether every tag is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, attrs)
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


@pytest.fixture(scope="module")
def page(written: Written) -> Page:
    return Page(written.html)


def test_is_well_formed_with_unique_ids(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(targets) == 7
    assert all(target.removeprefix("#") in ids for target in targets)
    for tag, attributes in page.tags:
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]
        if tag == "img":
            assert attributes["alt"]


def test_needs_nothing_but_itself(page: Page, written: Written) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "srcset", "action", "poster", "xlink:href"}:
                assert value.startswith(("data:", "#")), (tag, name, value[:80])
    assert "url(" not in written.html
    assert "@import" not in written.html


def test_hostile_names_are_text(page: Page) -> None:
    assert HOSTILE_LABEL in page.text
    assert HOSTILE_ARTIFACT in page.text
    assert f"c0/{HOSTILE_IMAGE}" in page.text
    assert "stage0.<conv>" in page.text


def test_images_are_what_the_network_saw(page: Page, written: Written) -> None:
    vs = written.result.evaluations[1].vs
    assert vs is not None
    assert 1 < len(vs.changed) <= 12
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    description = open_artifact(written.artifacts[1]).manifest.preprocess
    for source, change in zip(sources, vs.changed, strict=True):
        assert source.startswith("data:image/png;base64,")
        pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))))
        np.testing.assert_array_equal(pixels, read_image(Path(change.image), description))


def test_figures_are_those_of_evaluate(page: Page, written: Written) -> None:
    result = evaluate(written.artifacts[1], written.dataset, vs=written.artifacts[0])
    assert result == written.result.evaluations[1]
    vs = result.vs
    assert vs is not None
    assert f"{result.top1.rate:.2%}" in page.text
    assert (
        f"{vs.changed_predictions} of {result.images} predictions differ: {vs.lost} lost, {vs.gained} gained"
        in page.text
    )
    assert f"{100 * abs(vs.difference):.2f}" in page.text
    for speed in written.result.speeds:
        assert [row.batch for row in speed.batches] == [1, 2]
        for row in speed.batches:
            assert f"{row.throughput_ips:.1f}" in page.text
            assert f"{row.latency_ms.p90:.2f}" in page.text


def test_every_figure_has_its_command(written: Written) -> None:
    for figure in written.html.split("<figure")[1:]:
        body = figure.split("</figure>")[0]
        assert body.count("<svg") == 1
        assert "<span>nestforge</span> <span>" in body


def test_commands_are_quoted_for_a_shell(page: Page, written: Written) -> None:
    assert f"--vs {written.artifacts[0]}" in page.text
    assert f"'{written.artifacts[1]}'" in page.text


def test_sensitivity_reads_what_its_dataclass_writes(tmp_path: Path) -> None:
    row = LayerSensitivity(
        name="conv",
        kind="Conv",
        macs=1,
        macs_share=1.0,
        time_share=None,
        alone_sqnr_db=20.0,
        alone_flips=0,
        kept_in_float_sqnr_db=30.0,
        kept_in_float_flips=0,
        range_low=-1.0,
        range_high=1.0,
        clipped_share=0.0,
    )
    found = Sensitivity(
        artifact_or_config="a", images=1, seconds=0.1, complete=True, total_sqnr_db=25.0, total_flips=0, layers=(row,)
    )
    write_json(found, str(tmp_path / "s.json"))
    assert read_sensitivity(tmp_path / "s.json") == found
    assert "conv: 1.00" in draw_noise(found)  # 20 dB below the logits' power
    assert "conv: 5.0" in draw_gain(found)


def test_sensitivity_is_ranked(written: Written) -> None:
    bars = written.html.split('id="figure-noise-0"')[1].split("</figure>")[0]
    order = [bars.index(f"stage{index}.&lt;conv&gt;:") for index in range(15)]
    assert order == sorted(order)
    assert "stage15" not in bars
    assert written.html.count('<th scope="row">stage') == LAYERS


def test_alone_and_without_measurements(written: Written, tmp_path: Path) -> None:
    result = report([written.artifacts[0]], output=tmp_path / "one.html", bench=False)
    assert (result.evaluations, result.speeds, result.sensitivities) == ((), (), ())
    page = Page((tmp_path / "one.html").read_text())
    assert "how it was made" in page.text
    assert "parity" in page.text
    report([written.artifacts[0]], output=tmp_path / "one.html", bench=False, dataset=written.dataset, limit=6)
    page = Page((tmp_path / "one.html").read_text())
    assert "have the lowest accuracy" in page.text
    assert "--limit 6" in page.text
    assert "Changed predictions" not in page.text


def test_calibration_images_are_refused_or_named(written: Written, calibration_images: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(written.dataset, data)
    for path in calibration_images.rglob("*.png"):
        shutil.copy(path, data / "c0" / f"{path.parent.name}-{path.name}")
    options = {"output": tmp_path / "r.html", "bench": False, "dataset": data}
    with pytest.raises(DataError, match="--allow-overlap"):
        report(written.artifacts, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "r.html").exists()
    report(written.artifacts, allow_overlap=True, **options)  # type: ignore[arg-type]
    page = Page((tmp_path / "r.html").read_text())
    assert "Calibration images were not excluded" in page.text
    assert "--allow-overlap" in page.text


def test_large_images_become_jpeg() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (224, 224, 3), np.uint8)
    uri, exact = encode_image(noise)
    assert not exact
    copy = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/jpeg;base64,")))))
    assert copy.shape == noise.shape
    assert encode_image(noise[:32, :32])[1]


def test_names_tell_artifacts_apart() -> None:
    assert name_artifacts([Path("a/x"), Path("b/x")]) == ["a/x", "b/x"]
    assert name_artifacts([Path("a/x"), Path("b/y")]) == ["x", "y"]
    assert name_artifacts([Path()]) == [Path.cwd().name]


def test_refusals_leave_nothing(written: Written, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.json").write_text('{"layers": []}')
    (tmp_path / "nan.json").write_text(written.sensitivity.read_text().replace("24.0", "NaN"))
    before = sorted(path.name for path in tmp_path.iterdir())
    first = written.artifacts[0]
    output = tmp_path / "r.html"
    for error, match, arguments, options in (
        (ConfigError, "no artifact given", [], {}),
        (ConfigError, "given twice", [first, first], {}),
        (ArtifactError, "is not a nestforge artifact", [first, tmp_path / "empty"], {}),
        (DataError, "no images", [first], {"dataset": tmp_path / "empty"}),
        (DataError, "outside class folders", [first], {"dataset": written.dataset / "c0"}),
        (ConfigError, "limit 0", [first], {"dataset": written.dataset, "limit": 0}),
        (ConfigError, "give a dataset too", [first], {"limit": 5}),
        (ConfigError, "seconds", [first], {"seconds": 0.0}),
        (ConfigError, "max-batch", [first], {"max_batch": 0}),
        (DataError, "cannot read", [first], {"sensitivity": [tmp_path / "none.json"]}),
        (DataError, "not a sensitivity report", [first], {"sensitivity": [tmp_path / "bad.json"]}),
        (DataError, "sensitivity", [first], {"sensitivity": [tmp_path / "nan.json"]}),
        (NestForgeError, "cannot write", [first], {"output": tmp_path / "empty"}),
        (NestForgeError, "cannot write", [first], {"output": tmp_path / "none" / "r.html"}),
    ):
        with pytest.raises(error, match=match):
            report(arguments, **{"output": output, "bench": False, **options})  # type: ignore[arg-type]
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("moment", ["classifying with fp32", "measuring batch 1", "drawing the page"])
def test_ctrl_c_leaves_nothing(moment: str, written: Written, tmp_path: Path) -> None:
    """Interrupted whenever, the page that was there before is still the one before."""

    @contextmanager
    def interrupt(description: str, total: int | None) -> Iterator[Advance]:
        if description == moment:
            raise KeyboardInterrupt
        yield lambda steps: None

    (tmp_path / "r.html").write_text("before")
    options = {"dataset": written.dataset, "seconds": 0.1, "max_batch": 1, "bench": moment != "drawing the page"}
    with pytest.raises(KeyboardInterrupt):
        report([written.artifacts[0]], output=tmp_path / "r.html", progress=interrupt, **options)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]
    assert (tmp_path / "r.html").read_text() == "before"
