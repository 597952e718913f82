"""The codec of River's learners: every object of an allow-list, attribute by attribute.

A learner of River is a graph of objects: nodes, statistics of leaves, drift detectors, and one
random generator that the leaves share. `river_classes.py` names the classes that may occur and the
attributes that are written of each. Settings are not written: a state is read into a fresh model of
the same settings, so the two cannot contradict each other. A class or an attribute that is not in
the table is refused, so an update of River that adds one is noticed before a state is lost.

Nothing is executed when a state is read: no pickle, no import by name. Objects are written in a
flat list and refer to each other by number, so a degenerate tree needs no recursion.
"""

import random
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np
from river import drift, optim
from river.forest import adaptive_random_forest as arf
from river.tree.nodes import htc_nodes
from river.tree.splitter import ebst_splitter

from tidemill.errors import ModelError
from tidemill.trainers.learners.river_classes import (
    BARE,
    FIELDS,
    MODELS,
    NAMES,
    PARTS,
    REMADE,
    UNUSED,
    WINDOW,
)
from tidemill.trainers.learners.river_trees import RiverObject

MAX_STATE_BYTES = 16 * 2**20
_MAX_DETECTOR_BYTES = 64 * 2**10
_UNREADABLE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip
_Packed = Any


def dump(models: Mapping[str, RiverObject]) -> bytes:
    """Return the state of *models*, each with its whole graph of objects.

    Raises:
        ModelError: it holds a class or an attribute that is not in the table, or is over
            `MAX_STATE_BYTES`.
    """
    writer = _StateWriter()
    roots = {name: writer.value(model) for name, model in models.items()}
    data = msgspec.msgpack.encode([roots, writer.objects()])
    if len(data) > MAX_STATE_BYTES:
        raise ModelError(
            f"the state of the learner has {len(data):,} bytes, over {MAX_STATE_BYTES:,}",
            hint="set a smaller models.online.max_depth, hash_buckets or n_models",
        )
    return data


def load(data: bytes, models: Mapping[str, RiverObject]) -> None:
    """Read what `dump` wrote into *models*, which are fresh and have the same settings.

    Raises:
        ModelError: it is no such state; *models* must not be used then.
    """
    try:
        if len(data) > MAX_STATE_BYTES:
            raise ValueError(f"{len(data)} bytes are over {MAX_STATE_BYTES}")
        roots, objects = msgspec.msgpack.decode(data)
        _StateReader(models, roots, objects).read()
    except (*_UNREADABLE, msgspec.DecodeError) as error:
        raise ModelError(
            f"the state of an online learner cannot be read: {error!r}",
            hint="train it again: tidemill train LOOP --once",
        ) from error


class _StateWriter:
    """Numbers the objects it meets, and writes each once."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._met: list[object] = []

    def objects(self) -> list[_Packed]:
        """Return all objects that were met, and those met while they are written."""
        written: list[_Packed] = []
        while len(written) < len(self._met):
            written.append(self._object(self._met[len(written)]))
        return written

    def _object(self, one: object) -> list[_Packed]:
        kind = type(one)
        fields = FIELDS[kind]
        if kind in PARTS:
            held = set(vars(one)) if hasattr(one, "__dict__") else set(kind.__slots__)  # type: ignore[attr-defined]
            others = held - set(fields) - REMADE - UNUSED.get(kind, frozenset())
            if others or not set(fields) <= held:
                raise _unknown(f"{kind.__name__} with {sorted(held ^ set(fields))}")
        return [kind.__name__, *(self.value(getattr(one, name)) for name in fields)]

    def value(self, value: object) -> _Packed:
        """Return *value* as the numbers, texts, bytes and lists of MessagePack."""
        kind = type(value)
        if kind in FIELDS:
            return ["object", self._number(value)]
        if value is None or kind in (bool, int, float, str):
            return value
        if isinstance(value, dict):
            return ["dict", *(self.value(part) for pair in value.items() for part in pair)]
        if isinstance(value, set):
            return ["set", *sorted(value)]
        if kind in (list, tuple):
            return [kind.__name__, *map(self.value, value)]  # type: ignore[call-overload]
        return self._state(value)

    def _state(self, value: object) -> _Packed:
        if isinstance(value, np.float64):
            return ["float64", float(value)]
        if isinstance(value, np.ndarray) and value.dtype == np.float64 and value.ndim == 1:
            return ["array", value.tobytes()]
        if type(value) is random.Random:
            version, words, spare = value.getstate()
            return ["random", version, list(words), spare]
        if isinstance(value, np.random.RandomState):
            _, words, *rest = value.get_state(legacy=True)
            return ["numpy", np.asarray(words).tobytes(), *rest]
        if type(value) is WINDOW:
            return ["window", value.__getstate__()]
        raise _unknown(type(value).__name__)

    def _number(self, one: object) -> int:
        if id(one) not in self._numbers:
            self._numbers[id(one)] = len(self._met)
            self._met.append(one)
        return self._numbers[id(one)]


class _StateReader:
    """Makes all objects first, then fills in their attributes."""

    def __init__(
        self,
        models: Mapping[str, RiverObject],
        roots: Mapping[str, _Packed],
        objects: list[_Packed],
    ) -> None:
        if set(roots) != set(models):
            raise ValueError(f"models {sorted(roots)} instead of {sorted(models)}")
        self._roots = {roots[name][1]: model for name, model in models.items()}
        self._model: RiverObject = models["model"]
        self._packed = objects
        self._objects = [self._made(number, one[0]) for number, one in enumerate(objects)]

    def read(self) -> None:
        """Fill in the attributes of all objects."""
        for one, (_, *values) in zip(self._objects, self._packed, strict=True):
            for name, value in zip(FIELDS[type(one)], values, strict=True):
                self._set(one, name, self._value(value))

    def _made(self, number: int, name: str) -> RiverObject:
        kind = NAMES[name]
        if number in self._roots:
            if type(self._roots[number]) is not kind:
                raise ValueError(f"{name} is another model")
            return self._roots[number]
        if kind in (arf.BaseTreeClassifier, arf.BaseTreeRegressor):
            return self._model._new_base_model()
        if kind is optim.initializers.Normal:
            return self._model.latent_initializer  # the one that new factors come from
        if kind in MODELS:
            raise ValueError(f"{name} inside a model")
        if not issubclass(kind, BARE):
            return kind()
        one: RiverObject = object.__new__(kind)
        if issubclass(kind, htc_nodes.HTLeaf):
            one.splitter = self._model.splitter
            if hasattr(self._model, "_rng"):
                one.rng = self._model._rng
        if kind is ebst_splitter.EBSTNode:
            one._update_estimator = kind._update_estimator_univariate
        return one

    def _set(self, one: RiverObject, name: str, value: object) -> None:
        """Set an attribute; a generator and a mapping with a default are filled in place."""
        current = getattr(one, name, None)
        if isinstance(current, random.Random) and isinstance(value, random.Random):
            current.setstate(value.getstate())  # its leaves share it
        elif isinstance(current, dict) and type(current) is not dict and isinstance(value, dict):
            current.clear()
            for key, inner in value.items():
                if isinstance(inner, dict) and isinstance(current, defaultdict):
                    current[key].update(inner)
                else:
                    current[key] = inner
        else:
            setattr(one, name, value)

    def _value(self, packed: _Packed) -> object:
        if not isinstance(packed, list):
            return packed
        tag, *parts = packed
        return _READ[tag](self, parts)

    def referred(self, parts: list[_Packed]) -> object:
        """Return the object of this number."""
        (number,) = parts
        if not 0 <= number < len(self._objects):
            raise ValueError(f"no object {number}")
        return self._objects[number]

    def mapping(self, parts: list[_Packed]) -> object:
        """Return a dict of keys and values that follow each other."""
        values = [self._value(part) for part in parts]
        return dict(zip(values[::2], values[1::2], strict=True))

    def sequence(self, parts: list[_Packed]) -> list[object]:
        """Return a list."""
        return [self._value(part) for part in parts]


def _random(_reader: _StateReader, parts: list[_Packed]) -> object:
    version, words, spare = parts
    found = random.Random(0)
    found.setstate((version, tuple(words), spare))
    return found


def _numpy_random(_reader: _StateReader, parts: list[_Packed]) -> object:
    words, *rest = parts
    found = np.random.RandomState(0)
    found.set_state(("MT19937", np.frombuffer(words, dtype=np.uint32), *rest))
    return found


def _window(_reader: _StateReader, parts: list[_Packed]) -> object:
    (state,) = parts
    if len(state) > _MAX_DETECTOR_BYTES:
        raise ValueError(f"a detector of {len(state)} bytes")
    found = drift.ADWIN()._helper
    try:
        found.__setstate__(state)
    except BaseException as error:  # Rust panics on what it cannot read, by no Exception
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError("a detector that River cannot read") from error
    if found.__getstate__() != state:
        raise ValueError("a detector that is not written as River writes it")
    return found


_READ: dict[str, Callable[[_StateReader, list[_Packed]], object]] = {
    "object": _StateReader.referred,
    "dict": _StateReader.mapping,
    "list": _StateReader.sequence,
    "tuple": lambda reader, parts: tuple(reader.sequence(parts)),
    "set": lambda reader, parts: set(reader.sequence(parts)),
    "float64": lambda _, parts: np.float64(parts[0]),
    "array": lambda _, parts: np.frombuffer(parts[0], dtype=np.float64).copy(),
    "random": _random,
    "numpy": _numpy_random,
    "window": _window,
}


def _unknown(what: str) -> ModelError:
    return ModelError(
        f"the learner holds what its state cannot: {what}",
        hint="install the release of River that pyproject.toml names: river>=0.26,<0.27",
    )
