"""Strict parsing of foreign YAML and JSON: bounded reading, pydantic models, one style of message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError

from nestforge.checks import suggest_nearest
from nestforge.errors import ConfigError, NestForgeError
from nestforge.files import read_text

MAX_YAML_BYTES = 1 << 20
MAX_YAML_VALUES = 100_000
MAX_YAML_DEPTH = 64

Parsed = TypeVar("Parsed")


def parse(model: type[Parsed], data: object, *, source: str, error: type[NestForgeError] = ConfigError) -> Parsed:
    """Validate `data`, as YAML or JSON gave it, as `model`; `source` names it in the message.

    Raises:
        NestForgeError: the given `error`: unknown key (the nearest known one is named), missing key, wrong type.
    """
    try:
        return TypeAdapter(model).validate_python(tuples_from_lists(data))
    except ValidationError as failure:
        raise error(f"{source}: {explain_invalid(failure, model)}") from failure
    except RecursionError as failure:
        raise error(f"{source}: nested too deep") from failure


def read_json(
    path: Path, *, limit_bytes: int, kind: str, remedy: str, error: type[NestForgeError] = ConfigError
) -> Any:
    """Read one JSON file of bounded size; `kind` says in errors what it should be, `remedy` what to do.

    Raises:
        NestForgeError: the given `error`: missing, not a regular file, too large, or not JSON.
    """
    text = read_text(path, limit_bytes=limit_bytes, kind=kind, remedy=remedy, error=error)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:
        reason = str(failure).splitlines()[0]
        raise error(f"{path} is not valid JSON ({reason}); {remedy}") from failure


def read_yaml(path: Path) -> Any:
    """Read one YAML file of bounded size, also after its aliases are expanded.

    Raises:
        ConfigError: missing, too large, or not YAML.
    """
    remedy = "give a build file written as YAML"
    text = read_text(path, limit_bytes=MAX_YAML_BYTES, kind="build file", remedy=remedy, error=ConfigError)
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


def parse_yaml_value(text: str, *, source: str) -> Any:
    """Parse a short YAML text; `source` names it in errors.

    Raises:
        ConfigError: not YAML.
    """
    try:
        return yaml.safe_load(text)
    except Exception as error:  # PyYAML's constructors raise whatever a wrong value leads them to
        raise ConfigError(f"{source}: the value is not valid YAML: {_one_line(error)}") from error


def tuples_from_lists(value: Any) -> Any:
    """Strict pydantic fields want tuples where YAML can only say lists; no field of ours is a list."""
    if isinstance(value, Mapping):
        return {key: tuples_from_lists(item) for key, item in value.items()}
    return tuple(tuples_from_lists(item) for item in value) if isinstance(value, list) else value


def explain_invalid(error: ValidationError, root: type[Any]) -> str:
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


def _known_keys(location: Iterable[int | str], root: type[Any]) -> list[str]:
    sections = _find_sections(root)
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
