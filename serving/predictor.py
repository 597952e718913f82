"""Predictors: one row of numbers in, one score out, fast enough for the path of a decision.

LightGBM is called through its C API without the Python package around it: one call a row, the same
bits as `Booster.predict`. It trusts its input, so a text goes through `modeltext.check_text` and a
trial in a child process first (`admission.py`). River's models need no more than
`schemas/riverstate.py`, whose predictor has the same shape. It knows no loop and no Kafka.
"""

import ctypes
import importlib.util
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from tidemill.errors import ModelError
from tidemill.serving.modeltext import END
from tidemill.serving.policy import Features, Score

_FLOAT64 = 1
_NORMAL = 0  # probabilities for a classifier, values for a regression
_ALL_TREES = -1
_PARAMETERS = b"num_threads=1 verbosity=-1"  # OpenMP on busy cores is twenty times slower


class LightGbmModel:
    """A LightGBM model behind the single-row call of its C API."""

    def __init__(self, text: str, columns: int) -> None:
        """Load *text*, a model in LightGBM's own format that reads *columns* numbers a row.

        Only what stands before ``end of trees`` is given to the library; the parameters that
        follow it are of no use to a prediction.

        Raises:
            ModelError: the library refuses the text, or its number of features is another.
        """
        lib = _library()
        booster = ctypes.c_void_p()
        trees, found = ctypes.c_int(), ctypes.c_int()
        head = text.partition(END)[0] + END
        _check(
            lib.LGBM_BoosterLoadModelFromString(
                head.encode(), ctypes.byref(trees), ctypes.byref(booster)
            )
        )
        weakref.finalize(self, lib.LGBM_BoosterFree, booster)
        _check(lib.LGBM_BoosterGetNumFeature(booster, ctypes.byref(found)))
        if found.value != columns:
            raise ModelError(
                f"the model reads {found.value} numbers a row, its signature has {columns}",
                hint="publish the model together with the signature it was trained with",
            )
        fast = ctypes.c_void_p()
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
        weakref.finalize(self, lib.LGBM_FastConfigFree, fast)
        self._row = (ctypes.c_double * columns)()
        self._size = ctypes.c_int64()
        self._score = (ctypes.c_double * 1)()
        self._arguments = (
            fast.value,
            ctypes.addressof(self._row),
            ctypes.addressof(self._size),
            ctypes.addressof(self._score),
        )
        self._pack = struct.Struct(f"{columns}d").pack_into
        self._call = lib.LGBM_BoosterPredictForMatSingleRowFast
        self._lock = threading.Lock()  # one row and one score buffer for all threads

    def predict(self, row: Sequence[float]) -> float:
        """Return the probability (binary) or value (regression) of *row*.

        Raises:
            ModelError: the library reports an error, or *row* has another length.
        """
        with self._lock:
            try:
                self._pack(self._row, 0, *row)
            except struct.error as error:
                raise ModelError(
                    f"a row of {len(row)} numbers does not fit the model: {error}",
                    hint="encode rows with the signature that came with the model",
                ) from error
            if self._call(*self._arguments):
                raise _library_error()
            return self._score[0]

    def scorer(self, encode: Callable[[Features], Sequence[float]]) -> Score:
        """Return the function that scores features, which *encode* turns into a row."""
        predict = self.predict
        return lambda features: predict(encode(features))


@cache
def _library() -> ctypes.CDLL:
    """Load LightGBM's shared library without importing its Python package, which brings pandas.

    Called with the interpreter lock held: releasing it costs more than the few microseconds of a
    prediction, and a waiting thread would make the decision wait in turn.
    """
    spec = importlib.util.find_spec("lightgbm")
    if spec is None or spec.origin is None:
        raise ModelError("lightgbm is not installed", hint="pip install tidemill")
    folder = Path(spec.origin).parent
    for place in ("lib/lib_lightgbm.so", "lib/lib_lightgbm.dylib", "bin/lib_lightgbm.dll"):
        if (folder / place).exists():
            lib = ctypes.PyDLL(str(folder / place))
            lib.LGBM_GetLastError.restype = ctypes.c_char_p
            lib.LGBM_BoosterPredictForMatSingleRowFast.argtypes = [ctypes.c_void_p] * 4
            return lib
    raise ModelError(
        f"lightgbm in {folder} has no shared library", hint="reinstall it: pip install lightgbm"
    )


def _library_error() -> ModelError:
    reason = _library().LGBM_GetLastError().decode(errors="replace")
    return ModelError(f"LightGBM: {reason}", hint="train the model again and publish it")


def _check(status: int) -> None:
    if status:
        raise _library_error()
