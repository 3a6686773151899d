"""Label files that hold JSON, or a list or dict as Python prints it."""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Iterable
from typing import Any

from nestforge.data.labels import WNID, Label, is_number, order_labels
from nestforge.errors import DataError

_MAX_PYTHON_CHARACTERS = 2 << 20
_MAX_PYTHON_DEPTH = 8
_WRAPPERS = ("id2label", "label2id", "categories", "classes", "class_names", "labels", "names")
_NAME_KEYS = ("name", "label", "class", "class_name", "category", "title", "description")
_WNID_KEYS = ("wnid", "wordnet_id", "synset", "synset_id", "id")
_INDEX_KEYS = ("index", "idx", "class_id", "class_index", "label_id", "id")


def read_json_labels(text: str) -> tuple[Label, ...]:
    """Read the classes from JSON.

    A list of names, of ``[wnid, name]`` or of objects; a map from index to one of those, from name to index, or from
    wnid to ``[index, name]``; each may be the value of ``id2label``, ``categories``, ``classes``, ``labels`` or
    ``names``. What Python prints of a list or dict is read as well.

    Raises:
        DataError: neither, or something in it is no name, or an index is missing or there twice.
    """
    data = _load(text)
    for _ in range(3):
        if isinstance(data, dict):
            data = next((data[key] for key in _WRAPPERS if isinstance(data.get(key), dict | list)), data)
    if isinstance(data, list | tuple):
        return _order([_read_entry(value, f"entry {place}") for place, value in enumerate(data)])
    if not isinstance(data, dict):
        raise DataError("JSON labels are a list of names, or a map from index to name")
    if all(_as_index(key) is not None for key in data):
        return _order([(_as_index(key), *_read_entry(value, f"class {key}")[1:]) for key, value in data.items()])
    if all(_as_index(value) is not None for value in data.values()):
        return _order([(_as_index(value), *_read_name(key)) for key, value in data.items()])
    if all(WNID.fullmatch(str(key)) for key in data):
        return _order([_read_wnid_entry(key, value) for key, value in data.items()])
    raise DataError("its map is neither from index to name nor from name to index")


_Entry = tuple[int | None, str, str | None]  # index, name, wnid


def _load(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_refuse_repeated)
    except RecursionError as error:
        raise DataError("nested too deep") from error
    except ValueError as error:
        data = _load_python(text)
        if data is None:
            raise DataError(f"it is not valid JSON ({str(error).splitlines()[0]})") from error
        return data


def _load_python(text: str) -> Any:
    """Return the list or dict that Python printed as `text`; None for other text. Nothing of it is run."""
    if len(text) > _MAX_PYTHON_CHARACTERS or _count_open_brackets(text) > _MAX_PYTHON_DEPTH:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd backslashes
            tree = ast.parse(text, mode="eval")
            for node in ast.walk(tree):
                if isinstance(node, ast.Dict):
                    _refuse_repeated((ast.dump(key), None) for key in node.keys if key is not None)
            return ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _count_open_brackets(text: str) -> int:
    deepest = depth = 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        deepest = max(deepest, depth)
    return deepest


def _refuse_repeated(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DataError(f"the key {key!r} is there twice")
        found[key] = value
    return found


def _as_index(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return int(value) if isinstance(value, str) and is_number(value) else None


def _read_entry(value: object, where: str) -> _Entry:
    """Read what stands for one class: a name, ``[wnid, name]`` or an object; `where` names it in errors."""
    if isinstance(value, dict):
        name = next((value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)), None)
        wnid = next((value[key] for key in _WNID_KEYS if WNID.fullmatch(str(value.get(key)))), None)
        index = next((_as_index(value[key]) for key in _INDEX_KEYS if _as_index(value.get(key)) is not None), None)
        if name is None and wnid is None:
            raise DataError(f"{where} has no name")
        return index, name or str(wnid), wnid
    if isinstance(value, list | tuple) and len(value) == 2 and WNID.fullmatch(str(value[0])):
        return None, str(value[1]), str(value[0])
    if isinstance(value, str | int) and not isinstance(value, bool):
        return None, str(value), None
    raise DataError(f"{where} is no name: {str(value)[:40]!r}")


def _read_name(key: object) -> tuple[str, str | None]:
    return str(key), str(key) if WNID.fullmatch(str(key)) else None


def _read_wnid_entry(wnid: str, value: object) -> _Entry:
    if isinstance(value, list | tuple) and len(value) == 2 and _as_index(value[0]) is not None:
        return _as_index(value[0]), str(value[1]), wnid
    raise DataError(
        f"{wnid!r} has no index, and a map has no order; give a list in the order of the classes, or their indices"
    )


def _order(entries: list[_Entry]) -> tuple[Label, ...]:
    indices = [index for index, _, _ in entries if index is not None]
    if indices and len(indices) < len(entries):
        raise DataError("some entries have an index and some have none")
    return order_labels([name for _, name, _ in entries], [wnid for _, _, wnid in entries], indices or None)
