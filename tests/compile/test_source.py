"""What a build starts from: which weights, and the preprocessing that a network of other classes must state."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nestforge.artifact.artifact import inspect
from nestforge.builder import build
from nestforge.errors import ConfigError
from nestforge.networks.layers import make_seeded_weights
from nestforge.networks.zoo import get_variant


def build_with(config: dict[str, Any], output: Path) -> dict[str, Any]:
    """Build and return the manifest."""
    build({**config, "output": str(output)})
    return inspect(output).model_dump(mode="json")


@pytest.fixture
def seven_classes(tmp_path: Path) -> Path:
    """A checkpoint whose classes are not the published ones of resnest14_slim, EMA beside plain weights."""
    weights = make_seeded_weights(get_variant("resnest14_slim"), 0, num_classes=7)
    state = {name: torch.from_numpy(value) for name, value in weights.items()}
    path = tmp_path / "seven.pth"
    torch.save({"state_dict": {name: value + 1 for name, value in state.items()}, "state_dict_ema": state}, path)
    return path


def test_other_classes_must_state_their_preprocessing(seven_classes: Path, tmp_path: Path) -> None:
    config = {"model": {"name": "resnest14_slim", "weights": str(seven_classes)}, "dtype": "fp32"}
    with (
        pytest.raises(ConfigError, match="has 7 classes but resnest14_slim was published with 10") as error,
        pytest.warns(match="averaged"),
    ):
        build_with(config, tmp_path / "out")
    assert "\n" not in str(error.value)
    choices = re.findall(r"'(preprocess: \{.*?\})'", str(error.value))
    assert len(choices) == 2
    assert not (tmp_path / "out").exists()
    for number, choice in enumerate(choices):
        with pytest.warns(match="averaged"):
            manifest = build_with({**config, **yaml.safe_load(choice)}, tmp_path / str(number))
        assert manifest["classes"] == 7
        assert (manifest["height"], manifest["preprocess"]["ops"][0]["op"]) == [(56, "ecenter_crop"), (64, "resize")][
            number
        ]


def test_which_of_several_weights_were_taken_is_a_warning(seven_classes: Path, tmp_path: Path) -> None:
    model = {"name": "resnest14_slim", "weights": str(seven_classes)}
    preprocess = {"ops": [{"op": "resize", "size": [48, 48]}]}
    with pytest.warns(
        match=r"seven\.pth: averaged \(EMA\) weights used: state_dict_ema; the plain ones \(state_dict\)"
    ):
        build_with({"model": model, "dtype": "fp32", "preprocess": preprocess}, tmp_path / "out")
