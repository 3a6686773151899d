"""The build file: one strict YAML. An unknown key, a wrong type or an impossible pair is an error that says so."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nestforge.data.preprocess import Preprocess
from nestforge.errors import ConfigError
from nestforge.files import StrPath
from nestforge.schema import parse, parse_yaml_value, read_yaml


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """What to build: a variant with its weights or a seed, or any image-classification ONNX file."""

    name: str | None = None
    weights: str | None = None  # checkpoint; without it and without seed, the official one is downloaded
    seed: Annotated[int, Field(ge=0)] | None = None
    onnx: str | None = None
    output: str | None = None  # the value of the ONNX file that scores classes; default: the only one that can

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.name is None) == (self.onnx is None):
            raise ValueError("give either 'name' (a variant) or 'onnx' (a file)")
        if self.onnx is not None and (self.weights is not None or self.seed is not None):
            raise ValueError("'weights' and 'seed' go with 'name', not with 'onnx'")
        if self.output is not None and self.onnx is None:
            raise ValueError("'output' goes with 'onnx': a variant has one output")
        if self.weights is not None and self.seed is not None:
            raise ValueError("give 'weights' or 'seed', not both")
        return self


class CalibrationSection(_Section):
    """Which images the ranges are measured on; also those the built model is compared with its source on."""

    data: str
    count: Annotated[int, Field(ge=1)] = 300
    seed: int = 0
    suffix: str | None = None  # take only files that end in this, whatever the case; default: every image
    evaluation: str | None = None  # the folder accuracy will be measured on; refused where it holds these images
    allow_overlap: bool = False  # take calibration images that are in `evaluation` or `quantize.validation` too


class ValidationSection(_Section):
    """Labelled images a bound is judged on: neither the calibration images nor those of the final test."""

    data: str
    count: Annotated[int, Field(ge=1)] | None = None  # evenly over the classes; default: all
    seed: int = 0


class QuantizeSection(_Section):
    """How int8 is made."""

    mode: Literal["percentile", "max", "kl_divergence", "mse"] = "percentile"
    percentile: Annotated[float, Field(gt=50, le=100)] = 99.999
    per_channel: bool = True
    bias_correction: bool = True  # take the mean error of rounded weights out of the biases
    skip_convolutions: tuple[Annotated[int, Field(ge=0)], ...] = ()  # left in float; indices in graph order
    # CPUs without an int8 dot product saturate sums of two products; auto asks this CPU
    saturation: Literal["auto", "avoid", "ignore"] = "auto"
    # what int8 leaves in float, such as means and pools, is computed in; bf16 is for OpenVINO and CPUs that have it
    float_dtype: Literal["fp32", "bf16"] = "fp32"
    # layers are left in float until top-1 falls by at most this many percentage points, judged by a 95% interval
    max_drop: Annotated[float, Field(gt=0, le=100)] | None = None
    validation: ValidationSection | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.max_drop is None) != (self.validation is None):
            raise ValueError("'max_drop' and 'validation' (labelled images to judge it on) go together")
        return self


class PassSection(_Section):
    """Which graph passes are applied; all are exact in float32."""

    unfold_radix: bool = True
    # auto: where it was measured to pay, or not to cost (docs/performance.md, performance-amx.md)
    fold_pads: Literal["auto", True, False] = "auto"  # in int8
    split_radix: Literal["auto", True, False] = "auto"  # on OpenVINO


class BuildConfig(_Section):
    """A whole build file."""

    model: ModelSection
    dtype: Literal["fp32", "bf16", "int8"] = "int8"
    engine: Literal["openvino", "onnxruntime"] = "openvino"
    output: str
    calibration: CalibrationSection | None = None
    quantize: QuantizeSection = QuantizeSection()
    passes: PassSection = PassSection()
    preprocess: Preprocess | None = None  # default: the published one of the variant
    append_softmax: bool = False  # the artifact then gives probabilities
    labels: str | None = None  # a file, or "imagenet"
    allow_poor_parity: bool = False  # keep a build that agrees with its source no more often than by chance

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dtype == "int8" and self.calibration is None:
            raise ValueError("dtype int8 needs a 'calibration' section with 'data'")
        if self.dtype == "int8" and self.quantize.max_drop is not None and self.labels is None:
            raise ValueError("'quantize.max_drop' needs 'labels', which say what class each validation folder is")
        if self.model.onnx is not None and self.preprocess is None:
            raise ValueError("an ONNX file needs a 'preprocess' section: nothing in it says how it was trained")
        if self.preprocess is not None and self.preprocess.output_hw is None:
            raise ValueError("'preprocess.ops' must end in a fixed size (ecenter_crop, center_crop or resize [h, w])")
        return self

    @property
    def execution_dtype(self) -> Literal["fp32", "bf16", "int8"]:
        """How the engine is told to execute: with bf16, it is so for whatever the file does not quantize."""
        return "bf16" if self.dtype == "int8" and self.quantize.float_dtype == "bf16" else self.dtype


ConfigSource = StrPath | Mapping[str, Any] | BuildConfig  # what public functions take


def resolve_config(config: ConfigSource, overrides: Iterable[str] = ()) -> BuildConfig:
    """Return the build that a YAML file, a mapping of the same keys, or a `BuildConfig` describes.

    Raises:
        ConfigError: as `read_config`; overrides of a `BuildConfig`, which has none.
    """
    if isinstance(config, BuildConfig):
        if tuple(overrides):
            raise ConfigError("overrides apply to a YAML file or a mapping; change the BuildConfig itself")
        return config
    if isinstance(config, Mapping):
        data = copy.deepcopy(dict(config))
        for override in overrides:
            _apply_override(data, override)
        return parse_config(data, source="config")
    return read_config(Path(config), overrides)


def read_config(path: Path, overrides: Iterable[str] = ()) -> BuildConfig:
    """Read a build file and apply ``key.path=value`` overrides, whose values are YAML.

    Relative paths in the file are relative to the current folder, as on a command line.

    Raises:
        ConfigError: missing file, not YAML, unknown key (the nearest known one is named), wrong type.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path} must be a mapping with at least 'model' and 'output'")
    for override in overrides:
        _apply_override(data, override)
    return parse_config(data, source=str(path))


def parse_config(data: Mapping[str, Any], *, source: str) -> BuildConfig:
    """Validate a mapping; `source` names it in errors.

    Raises:
        ConfigError: as `read_config`.
    """
    return parse(BuildConfig, data, source=source)


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write key.path=value")
    value = parse_yaml_value(text, source=f"--set {override!r}")
    *parents, leaf = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is not a section")
        data = child
    data[leaf] = value
