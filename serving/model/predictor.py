"""Predictors: they score one row of numbers, fast enough for a decision.

`LightGbmModel` calls the C API of LightGBM without its Python package: one call for each row, with
the same bits as `Booster.predict`. The library trusts its input, so `model_text.read_text` checks a
text and a child process tries it first (`admission.py`). A worker scores with `forest.py` instead
if that was compiled. Models of River are scored by `schemas/models/river_state.py`.
"""

import ctypes
import importlib.util
import struct
import threading
import weakref
from collections.abc import Callable, Collection, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tidemill.errors import ModelError
from tidemill.serving.model.model_text import END

if TYPE_CHECKING:  # the child process of a trial needs neither and starts faster without
    from tidemill.schemas.models.feature_signature import FeatureSignature
    from tidemill.serving.policies.choice import ItemScore, ScoreFunction

T = TypeVar("T")

_FLOAT64 = 1
_NORMAL = 0  # probabilities for a classifier, values for a regression
_ALL_TREES = -1
_PARAMETERS = b"num_threads=1 verbosity=-1"  # OpenMP on busy cores is twenty times slower


def doubles(numbers: Sequence[float]) -> bytes:
    """Return *numbers* as C reads them."""
    return struct.pack(f"{len(numbers)}d", *numbers)


class RowModel:
    """A model in C that scores the one row of a buffer; safe to share between threads.

    A subclass sets `call`, which returns 0 or a status that `error` explains, and its `arguments`.
    """

    call: Callable[..., int]
    arguments: tuple[int | None, ...]

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.lock = threading.Lock()  # one thread at a time uses the row and its score
        self.row = (ctypes.c_double * columns)()
        self.score = (ctypes.c_double * 1)()
        self.fill = partial(struct.Struct(f"{columns}d").pack_into, self.row, 0)

    def predict(self, row: Sequence[float]) -> float:
        """Return the probability (binary) or value (regression) of *row*.

        Raises:
            ModelError: the library reports an error, or *row* has another length.
        """
        return self._scorer(self._fill_row)(row)

    def scorer(
        self,
        signature: "FeatureSignature",
        nullable: Collection[str],
        names: Sequence[str] | None = None,
    ) -> "ScoreFunction":
        """Return the function that scores features; see `row_filler` for the arguments."""
        from tidemill.serving.model.row_filler import row_filler  # see TYPE_CHECKING above

        return self._scorer(row_filler(signature, nullable, self.fill, names))

    def item_scorer(
        self,
        signature: "FeatureSignature",
        nullable: Collection[str],
        names: Sequence[str],
        own: Sequence[str],
    ) -> "ItemScore":
        """Return the function that scores the items of a request, which share some features.

        Args:
            signature: what the model reads.
            nullable: the features that may be None.
            names: the features of a decision, in order.
            own: those of an item, in order.
        """
        from tidemill.serving.model.row_filler import rows_flattener  # see TYPE_CHECKING above
        from tidemill.serving.policies.choice import ItemScore

        flattened = rows_flattener(signature, nullable, names, own)
        one = self.scorer(signature, nullable, [*names, *own])
        scores = self.scores
        return ItemScore(one, lambda shared, rows: scores(doubles(flattened(shared, rows))))

    def scores(self, rows: bytes) -> list[float]:
        """Return the score of each of *rows*, whose doubles are one behind the other.

        Raises:
            ModelError: the library reports an error, or the bytes are no whole rows.
        """
        self._counted(rows)
        return [self.predict(row) for row in struct.iter_unpack(f"{self.columns}d", rows)]

    def _counted(self, rows: bytes) -> int:
        """Return how many rows these are."""
        count, rest = divmod(len(rows), 8 * self.columns)
        if rest:
            raise ModelError(
                f"{len(rows)} bytes are no rows of {self.columns} numbers",
                hint="score with the signature that came with the model",
            )
        return count

    def error(self) -> ModelError:
        """Return the error of the last call."""
        raise NotImplementedError

    def _fill_row(self, row: Sequence[float]) -> None:
        self.fill(*row)

    def _scorer(self, fill: Callable[[T], None]) -> Callable[[T], float]:
        lock, out, arguments, call = self.lock, self.score, self.arguments, self.call

        def score(value: T, model: RowModel = self) -> float:  # keeps the memory of C alive
            with lock:
                try:
                    fill(value)
                except struct.error as error:
                    raise ModelError(
                        f"the numbers do not fit the model: {error}",
                        hint="score with the signature that came with the model",
                    ) from error
                if call(*arguments):
                    raise model.error()
                return out[0]

        return score


class LightGbmModel(RowModel):
    """A LightGBM model behind the single-row call of its C API."""

    def __init__(self, text: str, columns: int) -> None:
        """Load *text*, a model in LightGBM's own format that reads *columns* numbers a row.

        The library gets the text up to ``end of trees``; the parameters after it are not needed
        for a prediction.

        Raises:
            ModelError: the library refuses the text, or it reads another number of features.
        """
        super().__init__(columns)
        lib = _library()
        trees = (text.partition(END)[0] + END).encode()
        booster, fast = ctypes.c_void_p(), ctypes.c_void_p()
        count, found = ctypes.c_int(), ctypes.c_int()
        _check(
            lib.LGBM_BoosterLoadModelFromString(trees, ctypes.byref(count), ctypes.byref(booster))
        )
        weakref.finalize(self, _free, booster, fast).atexit = False  # threads may still score
        _check(lib.LGBM_BoosterGetNumFeature(booster, ctypes.byref(found)))
        if found.value != columns:
            raise ModelError(
                f"the model reads {found.value} numbers a row, its signature has {columns}",
                hint="publish the model together with the signature it was trained with",
            )
        _check(
            lib.LGBM_BoosterPredictForMatSingleRowFastInit(
                booster,
                ctypes.c_int(_NORMAL),
                ctypes.c_int(0),
                ctypes.c_int(_ALL_TREES),
                ctypes.c_int(_FLOAT64),
                ctypes.c_int32(columns),
                _PARAMETERS,
                ctypes.byref(fast),
            )
        )
        self._size = ctypes.c_int64()
        self.call = _call()
        self.arguments = (
            fast.value,
            ctypes.addressof(self.row),
            ctypes.addressof(self._size),
            ctypes.addressof(self.score),
        )

    def error(self) -> ModelError:
        """Return the error of the last call, in the words of the library."""
        return _library_error()


def preload() -> None:
    """Load the library, so that the forks of this process have it."""
    _call()
    _library()


def _free(booster: ctypes.c_void_p, fast: ctypes.c_void_p) -> None:
    if fast:
        _library().LGBM_FastConfigFree(fast)
    _library().LGBM_BoosterFree(booster)


@cache
def _call() -> Callable[..., int]:
    """Return the function that predicts; it holds the interpreter's lock.

    Releasing the lock costs more than the few microseconds of a prediction, and the decision would
    have to wait until it gets the lock back.
    """
    call = ctypes.PyDLL(_path()).LGBM_BoosterPredictForMatSingleRowFast
    call.argtypes = [ctypes.c_void_p] * 4
    typed: Callable[..., int] = call
    return typed


@cache
def _library() -> ctypes.CDLL:
    """Return the library for all other calls, which release the interpreter's lock."""
    lib = ctypes.CDLL(_path())
    lib.LGBM_GetLastError.restype = ctypes.c_char_p
    return lib


def _path() -> str:
    """Find the shared library without importing LightGBM's Python package, which brings pandas."""
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or spec.origin is None:
        raise ModelError("lightgbm is not installed", hint="pip install tidemill")
    folder = Path(spec.origin).parent
    for place in ("lib/lib_lightgbm.so", "lib/lib_lightgbm.dylib", "bin/lib_lightgbm.dll"):
        if (folder / place).exists():
            return str(folder / place)
    raise ModelError(
        f"lightgbm in {folder} has no shared library", hint="reinstall it: pip install lightgbm"
    )


def _library_error() -> ModelError:
    reason = _library().LGBM_GetLastError().decode(errors="replace")
    return ModelError(f"LightGBM: {reason}", hint="train the model again and publish it")


def _check(status: int) -> None:
    if status:
        raise _library_error()
