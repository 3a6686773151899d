"""Build files: overrides, errors that name the key, the shipped ones, and mappings in their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nestforge.artifact.artifact import inspect
from nestforge.builder import build
from nestforge.compile.plan import choose_disabled_passes
from nestforge.config import parse_config, read_config
from nestforge.errors import ConfigError

Config = dict[str, Any]


def test_read_config_and_overrides(slim_config: Config, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps({**slim_config, "output": "a"}))
    config = read_config(path, ["calibration.count=7", "dtype=fp32", "quantize.mode=max"])
    assert (config.calibration.count if config.calibration else None, config.dtype) == (7, "fp32")
    assert config.quantize.mode == "max"
    for override, message in (
        ("dtype", "write key.path=value"),
        ("dtype.x=1", "is not a section"),
        ("a=[", "not valid YAML"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_config(path, [override])
    with pytest.raises(ConfigError, match="cannot read build file"):
        read_config(tmp_path / "none.yaml")
    path.write_text("output: a\noutput: b\n")
    with pytest.raises(ConfigError, match="the key 'output' stands twice"):
        read_config(path)
    for text in ("a: [", "- 1", "", "\x00", "&a [*a]"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            read_config(path)


def test_shipped_configs_are_valid() -> None:
    root = Path(__file__).parents[1] / "configs"
    paths = sorted(root.glob("*.yaml"))
    assert paths
    for path in paths:
        read_config(path)


def test_rewritings_are_chosen_where_they_pay(slim_config: Config) -> None:
    for dtype, changed, expected in (
        ("int8", {}, False),
        ("fp32", {}, True),
        ("fp32", {"fold_pads": True}, False),
        ("int8", {"fold_pads": False}, True),
    ):
        config = parse_config({**slim_config, "dtype": dtype, "passes": changed, "output": "unused"}, source="test")
        disabled_passes = choose_disabled_passes(config)
        assert ("fold_pads" in disabled_passes) == expected
        assert "split_radix" not in disabled_passes
    config = parse_config({**slim_config, "engine": "onnxruntime", "output": "unused"}, source="test")
    assert "split_radix" in choose_disabled_passes(config)
    with pytest.raises(ConfigError, match=r"passes\.fold_pads: Input should be 'auto', True or False"):
        parse_config({**slim_config, "passes": {"fold_pads": "maybe"}, "output": "unused"}, source="test")


def test_a_mapping_is_built_like_the_same_file(slim_config: Config, tmp_path: Path) -> None:
    config = {**slim_config, "dtype": "fp32", "output": str(tmp_path / "mapping")}
    (tmp_path / "c.yaml").write_text(json.dumps({**config, "output": str(tmp_path / "file")}))
    first = build(config)
    second = build(tmp_path / "c.yaml")
    assert inspect(first.artifact).outputs == inspect(second.artifact).outputs
    third = build(config, overrides=["labels=null", f"output={tmp_path / 'override'}"])
    assert inspect(third.artifact).config.labels is None
    assert config["labels"] is not None  # the caller's mapping is not changed
    with pytest.raises(ConfigError, match="unknown key 'lables'; did you mean 'labels'"):
        build({**config, "lables": "x"})
    with pytest.raises(ConfigError, match="overrides apply to a YAML file or a mapping"):
        build(parse_config(config, source="test"), overrides=["dtype=int8"])
