"""The build file: one strict YAML. An unknown key, a wrong type or an impossible pair is an error that says so."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nestforge.data.preprocess import Preprocess
from nestforge.errors import ConfigError, suggest_nearest
from nestforge.files import read_small_file

MAX_YAML_BYTES = 1 << 20
MAX_YAML_VALUES = 100_000
MAX_YAML_DEPTH = 64


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelSection(_Section):
    """What to build: a variant with its weights or a seed, or any image-classification ONNX file."""

    name: str | None = None
    weights: str | None = None  # checkpoint; without it and without seed, the official one is downloaded
    seed: Annotated[int, Field(ge=0)] | None = None
    onnx: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.name is None) == (self.onnx is None):
            raise ValueError("give either 'name' (a variant) or 'onnx' (a file)")
        if self.onnx is not None and (self.weights is not None or self.seed is not None):
            raise ValueError("'weights' and 'seed' go with 'name', not with 'onnx'")
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


class RewriteSection(_Section):
    """Which rewritings of the graph are tried; all are exact in float32."""

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
    rewrites: RewriteSection = RewriteSection()
    preprocess: Preprocess | None = None  # default: the published one of the variant
    append_softmax: bool = False  # the artifact then gives probabilities
    labels: str | None = None  # a file, or "imagenet"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dtype == "int8" and self.calibration is None:
            raise ValueError("dtype int8 needs a 'calibration' section with 'data'")
        if self.model.onnx is not None and self.preprocess is None:
            raise ValueError("an ONNX file needs a 'preprocess' section: nothing in it says how it was trained")
        if self.preprocess is not None and self.preprocess.output_hw is None:
            raise ValueError("'preprocess.ops' must end in a fixed size (ecenter_crop, center_crop or resize [h, w])")
        return self

    @property
    def execution_dtype(self) -> Literal["fp32", "bf16", "int8"]:
        """How the engine is told to execute: with bf16, it is so for whatever the file does not quantize."""
        return "bf16" if self.dtype == "int8" and self.quantize.float_dtype == "bf16" else self.dtype


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


def read_yaml(path: Path) -> Any:
    """Read one YAML file of bounded size, also after its aliases are expanded.

    Raises:
        ConfigError: missing, too large, or not YAML.
    """
    try:
        content = read_small_file(path, limit_bytes=MAX_YAML_BYTES)
        if len(content) > MAX_YAML_BYTES:
            raise ConfigError(f"{path} is over {MAX_YAML_BYTES >> 10} KiB; that is not a build file")
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read build file {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not UTF-8 text; write the build file as YAML") from error
    if _count_open_brackets(text) > MAX_YAML_DEPTH:
        raise ConfigError(f"{path} is nested over {MAX_YAML_DEPTH} deep; that is not a build file")
    try:
        data = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 (a SafeLoader)
    except Exception as error:  # PyYAML's constructors raise whatever a wrong tag leads them to
        raise ConfigError(f"{path} is not valid YAML: {_one_line(error)}") from error
    _check_expanded_size(data, path)
    return data


def _count_open_brackets(text: str) -> int:
    """Return how many are open at most; PyYAML's time grows with the square of it."""
    deepest = depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, which by itself lets the last of two equal keys win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            raise ValueError(f"the key {twice!r} stands twice (line {node.start_mark.line + 1} and below)")
        return super().construct_mapping(node, deep)


def _check_expanded_size(data: Any, path: Path) -> None:
    """Refuse aliases that contain themselves or multiply: every later step walks the expanded tree."""
    waiting, seen = [data], 0
    while waiting:
        value = waiting.pop()
        seen += 1
        if seen + len(waiting) > MAX_YAML_VALUES:
            raise ConfigError(f"{path} holds over {MAX_YAML_VALUES:,} values, or an alias within itself")
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple | set):
            waiting += value


def parse_config(data: Mapping[str, Any], *, source: str) -> BuildConfig:
    """Validate a mapping; `source` names it in errors.

    Raises:
        ConfigError: as `read_config`.
    """
    try:
        return BuildConfig.model_validate(tuples_from_lists(data))
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain_invalid(error, BuildConfig)}") from error


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r}: write key.path=value")
    try:
        value = yaml.safe_load(text)
    except Exception as error:  # PyYAML's constructors raise whatever a wrong value leads them to
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {_one_line(error)}") from error
    *parents, leaf = key.split(".")
    for parent in parents:
        child = data.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent!r} is not a section")
        data = child
    data[leaf] = value


def tuples_from_lists(value: Any) -> Any:
    """Strict pydantic fields want tuples where YAML can only say lists; no field of ours is a list."""
    if isinstance(value, Mapping):
        return {key: tuples_from_lists(item) for key, item in value.items()}
    return tuple(tuples_from_lists(item) for item in value) if isinstance(value, list) else value


def explain_invalid(error: ValidationError, root: type[BaseModel]) -> str:
    """Say in one line what is wrong first; `root` is the model that was validated."""
    errors = error.errors()  # a misspelt key is unknown and also missing: the first says more
    first = next((entry for entry in errors if entry["type"] == "extra_forbidden"), errors[0])
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _known_keys(first["loc"][:-1], root)
        return f"unknown key {where!r}{suggest_nearest(str(first['loc'][-1]), known)} (known: {', '.join(known)})"
    if first["type"] == "missing":
        return f"missing key {where!r}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


def _known_keys(location: Iterable[int | str], root: type[BaseModel]) -> list[str]:
    sections = [root]
    for part in location:
        if len(sections) == 1 and part in sections[0].model_fields:
            sections = _find_sections(sections[0].model_fields[str(part)].annotation)
        elif len(sections) > 1:  # one of several kinds: pydantic names the one it took
            tagged = [section for section in sections if part in (section.__name__, *_list_tags(section))]
            sections = tagged or sections
    return list(dict.fromkeys(name for section in sections for name in section.model_fields))


def _find_sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for argument in get_args(annotation) for section in _find_sections(argument)]


def _list_tags(section: type[BaseModel]) -> list[str]:
    return [tag for field in section.model_fields.values() for tag in get_args(field.annotation)]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
