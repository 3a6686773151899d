"""Find the tensors of a network in a checkpoint by the network's own names, however they are wrapped.

A checkpoint consists of nested mappings. A mapping holds the network if there is a prefix that turns all names of the
network into keys of the mapping. Names that torch's wrappers add before or between others (``module``, ``_orig_mod``)
are ignored. If there are several complete sets that differ, averaged (EMA, SWA) weights are preferred to plain ones,
because they are what is evaluated and published. Two different sets of the same kind are refused.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nestforge.errors import ModelError

MAX_DEPTH = 8  # of nested mappings
MAX_CONTAINERS = 10_000
MAX_SHOWN_NAME = 80  # characters of a foreign name in an error
_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
_AVERAGED = frozenset({"ema", "swa", "averaged", "average", "avg", "polyak"})
# words in the names of what trainers and counters keep beside a network
_BOOKKEEPING = _AVERAGED | {
    *("loss", "losses", "criterion", "criterions", "criteria", "metric", "metrics", "acc", "accuracy", "confmat"),
    *("optim", "optimizer", "optimizers", "scheduler", "schedulers", "scaler", "callback", "callbacks", "loops"),
    *("step", "steps", "epoch", "epochs", "rng"),
}
_IGNORED_LEAVES = frozenset(
    {"num_batches_tracked", "total_ops", "total_params", "n_averaged", "class_weight", "class_weights", "pos_weight"}
)


@dataclass(frozen=True, kw_only=True)
class FoundState:
    """The tensors of a network by its own names, and where they were: the mapping, and the prefix of names in it."""

    tensors: dict[str, Any]
    path: tuple[str, ...]
    prefix: str
    notes: tuple[str, ...]

    @property
    def place(self) -> str:
        """A description such as ``"checkpoint > model, names under 'backbone.'"``; empty for a bare state dict."""
        return _format_place(self.path, self.prefix)


@dataclass(frozen=True, kw_only=True)
class _Container:
    """A mapping that holds tensors, and the keys that lead to it."""

    path: tuple[str, ...]
    tensors: Mapping[str, Any]


@dataclass(kw_only=True)
class _Candidate:
    """The keys of one container that are names of the network once a common prefix is removed."""

    container: _Container
    prefix: tuple[str, ...]
    keys: dict[str, list[str]] = field(default_factory=dict)  # the network's name -> keys in the container

    @property
    def is_averaged(self) -> bool:
        words = {word for part in (*self.container.path, *self.prefix) for word in _split_words(part)}
        own = self.container.tensors if not self.prefix else ()
        return bool(words & _AVERAGED) or "n_averaged" in own

    @property
    def place(self) -> str:
        return _format_place(self.container.path, ".".join(self.prefix)) or "the file itself"

    def list_tensors(self) -> dict[str, Any]:
        return {name: self.container.tensors[keys[0]] for name, keys in self.keys.items()}


def find_state(data: object, expected: Collection[str], *, classifier: Collection[str] = ()) -> FoundState:
    """Find the tensors of a network whose state dict has the names `expected`.

    The tensors named `classifier` may be under another prefix than the rest. ``num_batches_tracked`` may be missing.

    Raises:
        ModelError: tensors are missing, there are several different sets of them, or there are extra layers. Its text
            continues a sentence that begins with the file: "lacks ...".
    """
    containers = list(_list_containers(data))
    if not containers:
        raise ModelError("holds no tensors by name")
    required = [name for name in expected if _get_leaf(name) != "num_batches_tracked"]
    candidates = [candidate for container in containers for candidate in _match(container, expected)]
    for candidate in candidates:
        _add_classifier(candidate, candidates, required, classifier)
    complete = [candidate for candidate in candidates if all(name in candidate.keys for name in required)]
    if not complete:
        raise ModelError(_explain_mismatch(containers, candidates, required))
    chosen, notes = _choose(complete)
    for first, *others in chosen.keys.values():
        tensors = chosen.container.tensors
        other = next((key for key in others if not _equal(tensors[first], tensors[key])), None)
        if other is not None:
            raise ModelError(f"holds {_quote(first)} and {_quote(other)}, which differ; save one of them alone")
    notes += _describe_partial_average(chosen, candidates, required)
    notes += _check_rest(chosen, complete, expected)
    return FoundState(
        tensors=chosen.list_tensors(), path=chosen.container.path, prefix=".".join(chosen.prefix), notes=tuple(notes)
    )


def _list_containers(data: object) -> Iterator[_Container]:
    waiting: deque[tuple[tuple[str, ...], object]] = deque([((), data)])
    seen: set[int] = set()
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen or len(path) > MAX_DEPTH or len(seen) > MAX_CONTAINERS:
            continue
        seen.add(id(value))
        if isinstance(value, Mapping):
            tensors = {str(key): item for key, item in value.items() if _is_tensor(item)}
            if tensors:
                yield _Container(path=path, tensors=tensors)
            waiting += [((*path, str(key)), item) for key, item in value.items() if isinstance(item, Mapping | list)]
        elif isinstance(value, list):
            waiting += [((*path, str(index)), item) for index, item in enumerate(value) if isinstance(item, Mapping)]


def _is_tensor(value: object) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "detach") and hasattr(value, "shape"))


def _match(container: _Container, expected: Collection[str]) -> list[_Candidate]:
    """Return a candidate for every prefix under which the container has at least one of the names."""
    known = {_drop_wrappers(name): name for name in expected}
    if len(known) < len(expected):  # the network itself uses a wrapper's name
        known = {tuple(name.split(".")): name for name in expected}
    candidates: dict[tuple[str, ...], _Candidate] = {}
    for key in container.tensors:
        parts = _drop_wrappers(key) if len(key) < 1000 else ()
        for start in range(len(parts)):
            name = known.get(parts[start:])
            if name is not None:
                prefix = parts[:start]
                candidate = candidates.setdefault(prefix, _Candidate(container=container, prefix=prefix))
                candidate.keys.setdefault(name, []).append(key)
    return list(candidates.values())


def _drop_wrappers(name: str) -> tuple[str, ...]:
    return tuple(part for part in name.split(".") if part not in _WRAPPERS)


def _add_classifier(
    candidate: _Candidate, candidates: Iterable[_Candidate], required: Collection[str], classifier: Collection[str]
) -> None:
    """Complete a candidate that lacks only the classifier, if exactly one other prefix holds the classifier alone."""
    missing = {name for name in required if name not in candidate.keys}
    if not missing or not missing <= set(classifier):
        return
    heads = [
        other
        for other in candidates
        if other.container is candidate.container
        and missing <= set(other.keys) <= {*classifier}
        and other.prefix[:-1] == candidate.prefix[: max(0, len(other.prefix) - 1)]
    ]
    if len(heads) == 1:
        candidate.keys.update({name: heads[0].keys[name] for name in missing})


def _choose(complete: list[_Candidate]) -> tuple[_Candidate, list[str]]:
    averaged = [candidate for candidate in complete if candidate.is_averaged]
    pool = averaged or complete
    first = pool[0]
    other = next((candidate for candidate in pool[1:] if not _same_tensors(first, candidate)), None)
    if other is not None:
        raise ModelError(
            f"holds several different sets of these weights, such as {first.place} and {other.place}; save the one "
            "to use in a file of its own"
        )
    if not averaged:
        return first, []
    plain = next((candidate for candidate in complete if not candidate.is_averaged), None)
    beside = f"; the plain ones ({plain.place}) are not used: to use them, save them alone" if plain else ""
    return first, [f"averaged (EMA) weights used: {first.place}{beside}"]


def _describe_partial_average(
    chosen: _Candidate, candidates: Iterable[_Candidate], required: Collection[str]
) -> list[str]:
    """Return a note if there are averaged weights that cannot be used, because only some tensors were averaged."""
    if chosen.is_averaged:
        return []
    for candidate in candidates:
        missing = [name for name in required if name not in candidate.keys]
        if candidate.is_averaged and len(missing) < len(required) / 2:
            return [
                f"plain weights used: the averaged ones ({candidate.place}) lack {len(missing)} of {len(required)} "
                f"tensors, such as {_quote(missing[0])}"
            ]
    return []


def _check_rest(chosen: _Candidate, complete: Iterable[_Candidate], expected: Collection[str]) -> list[str]:
    """Refuse layers that the network does not have; return a note about other tensors that are left out."""
    used = {
        key
        for candidate in complete
        if candidate.container is chosen.container
        for keys in candidate.keys.values()
        for key in keys
    }
    top = {name.split(".")[0] for name in expected}
    left_out = []
    for key, tensor in chosen.container.tensors.items():
        if key in used or _get_leaf(key) in _IGNORED_LEAVES:
            continue
        parts = _drop_wrappers(key)
        inside = parts[: len(chosen.prefix)] == chosen.prefix
        own = inside and not top.isdisjoint(parts[len(chosen.prefix) : len(chosen.prefix) + 1])
        is_bookkeeping = any(word in _BOOKKEEPING for part in parts for word in _split_words(part))
        is_layer = inside or (_get_leaf(key) == "weight" and len(tensor.shape) > 1)
        if own or (is_layer and not is_bookkeeping):
            raise ModelError(
                f"holds more layers than this network, such as {_quote(key)}; if it is this network with another head, "
                "save the state dict of the classifier alone"
            )
        left_out.append(key)
    if not left_out:
        return []
    return [f"left out {len(left_out)} tensors that are not the network's, such as {_quote(left_out[0])}"]


def _explain_mismatch(containers: list[_Container], candidates: list[_Candidate], required: Collection[str]) -> str:
    best = max(candidates, key=lambda candidate: len(candidate.keys), default=None)
    container = best.container if best else max(containers, key=lambda container: len(container.tensors))
    missing = [name for name in required if best is None or name not in best.keys]
    where = f" (looking at {best.place})" if best and best.place != "the file itself" else ""
    lacks = f"lacks {len(missing)} of {len(required)} tensors{where}, such as {_quote(missing[0])}"
    return f"{lacks}; it has {_list_first(container.tensors)}; expected: {_list_first(required)}"


def _list_first(names: Collection[str], count: int = 3) -> str:
    shown = [_quote(name) for _, name in zip(range(count), names, strict=False)]
    return ", ".join(shown) + (", ..." if len(names) > count else "")


def _quote(name: str) -> str:
    return repr(name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}...")


def _escape(name: str) -> str:
    return _quote(name)[1:-1]


def _format_place(path: tuple[str, ...], prefix: str) -> str:
    mapping = " > ".join(_escape(key) for key in path)
    under = f"names under '{_escape(prefix)}.'" if prefix else ""
    return ", ".join(part for part in (mapping, under) if part)


def _split_words(part: str) -> list[str]:
    """Split at underscores, digits and capital letters: ``"modelEMA_2"`` is model, ema."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)]


def _get_leaf(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _same_tensors(one: _Candidate, other: _Candidate) -> bool:
    first, second = one.list_tensors(), other.list_tensors()
    return all(_equal(first[name], second[name]) for name in first.keys() & second.keys())


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if tuple(one.shape) != tuple(other.shape) or one.dtype != other.dtype:
        return False
    return bool(np.array_equal(one, other) if isinstance(one, np.ndarray) else one.equal(other))
