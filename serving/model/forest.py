"""Scores the trees of a LightGBM model with `trees.c`: the same bits as LightGBM, faster.

A call of LightGBM takes half the time of a decision. The child process of a trial packs the trees
of a checked text. The worker scores with them once they give the probe rows the bits that LightGBM
gave them in the child (`admission.py`).
"""

import ctypes
import importlib.util
import logging
import weakref
from functools import cache
from struct import Struct

from tidemill.errors import ModelError
from tidemill.serving.model.model_text import Splits, TextTree, TreeModel
from tidemill.serving.model.predictor import RowModel

logger = logging.getLogger(__name__)

_FORMAT = 2  # must be that of trees.c, which an earlier installation may have compiled
_MODULE = "tidemill.serving.model._trees"
_HEAD = Struct("=6I")  # columns, nodes, trees, sets, words, transform
_NODE = Struct("=dII")  # threshold, place, child
_ROOT = Struct("=I")
_SET = Struct("=3I")  # column, first word, how many words further the last one
_PROBABILITY, _EXPONENT = 1, 2  # transforms of the sum of the leaves
_TRANSFORMS = {
    "binary sigmoid:1": _PROBABILITY,
    "cross_entropy": _PROBABILITY,
    "poisson": _EXPONENT,
    "gamma": _EXPONENT,
    "tweedie": _EXPONENT,
}
_VIEWS = 5  # of a column, in the order of look in trees.c
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING = {0: (0, 0), 1: (4, 3), 2: (2, 1), 3: (0, 0)}
"""The view of a split by its kind: nothing, zero or NaN is missing, and then goes right or left."""


class Forest(RowModel):
    """The trees of a model in the memory of C."""

    def __init__(self, packed: bytes, columns: int) -> None:
        """Copy *packed*, which `pack` returned for a model that reads *columns* numbers a row.

        Raises:
            ModelError: *packed* is something else.
        """
        super().__init__(columns)
        lib = _library()
        if lib is None:
            raise ModelError("trees.c was not compiled", hint="install tidemill again")
        forest = lib.forest_open(packed, len(packed))
        weakref.finalize(self, lib.forest_close, forest).atexit = False  # threads may still score
        if not forest or _HEAD.unpack_from(packed)[0] != columns:
            raise ModelError(
                f"{len(packed)} bytes are not the trees of a model that reads {columns} numbers",
                hint="train the model again and publish it",
            )
        self.call = lib.forest_score
        self.arguments = (forest, ctypes.addressof(self.row), ctypes.addressof(self.score))
        # an installation that compiled an earlier trees.c goes on with single rows
        self._many = getattr(lib, "forest_scores", None)

    def scores(self, rows: bytes) -> list[float]:
        """Return the score of each of *rows*, whose doubles are one behind the other.

        The call holds the interpreter's lock, so no two threads use the memory of the walk.
        """
        if self._many is None:
            return super().scores(rows)
        count = self._counted(rows)
        found = (ctypes.c_double * count)()
        self._many(self.arguments[0], rows, count, ctypes.addressof(found))
        return list(found)


def is_built() -> bool:
    """Return whether the installed tidemill has compiled `trees.c`, in its current format."""
    return _library() is not None


def pack(model: TreeModel) -> bytes:
    """Pack the trees of *model* for `Forest`, in the byte order of this machine."""
    packing = _Packing(model.columns)
    for tree in model.trees:
        packing.add(tree)
    return packing.packed(_TRANSFORMS.get(model.objective, 0))


class _Packing:
    """The packed parts, to which each tree is added."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.nodes: list[bytes] = []
        self.roots: list[bytes] = []
        self.sets: list[bytes] = []
        self.words: list[int] = []
        self.numbers: dict[tuple[int, tuple[int, ...]], int] = {}  # of the sets

    def packed(self, transform: int) -> bytes:
        """Return all parts as one block."""
        sizes = len(self.nodes), len(self.roots), len(self.sets), len(self.words)
        words = Struct(f"={len(self.words)}I").pack(*self.words)
        head = _HEAD.pack(self.columns, *sizes, transform)
        return b"".join((head, *self.nodes, *self.roots, *self.sets, words))

    def add(self, tree: TextTree) -> None:
        """Add the nodes of *tree* level by level, the two children of a split side by side."""
        self.roots.append(_ROOT.pack(len(self.nodes)))
        level = [0 if tree.splits else ~0]
        while level:
            level = self._add_level(tree, level)

    def _add_level(self, tree: TextTree, level: list[int]) -> list[int]:
        """Add the nodes of *level*; return the nodes of the next level."""
        below: list[int] = []
        start = len(self.nodes)
        for place, node in enumerate(level, start):
            if node < 0 or tree.splits is None:
                self.nodes.append(_NODE.pack(tree.leaves[~node], 0, place))
            else:
                child = start + len(level) + len(below)
                self.nodes.append(_NODE.pack(*self._compared(tree.splits, node, tree.sets), child))
                below += tree.splits.left[node], tree.splits.right[node]
        return below

    def _compared(self, splits: Splits, node: int, sets: list[list[int]]) -> tuple[float, int]:
        """Return threshold and place of a split; a value up to the threshold goes left."""
        column, kind = splits.features[node], splits.kinds[node]
        threshold = splits.thresholds[node]
        if kind & _CATEGORICAL:
            number = self._number(column, tuple(sets[int(threshold)]))
            return 0.0, 1 + _VIEWS * self.columns + number
        view = _MISSING[kind >> 2][bool(kind & _DEFAULT_LEFT)]
        return threshold, 1 + _VIEWS * column + view

    def _number(self, column: int, words: tuple[int, ...]) -> int:
        """Return the number of a set of categories; equal sets of two trees share one number."""
        if (column, words) not in self.numbers:
            self.numbers[column, words] = len(self.sets)
            self.sets.append(_SET.pack(column, len(self.words), len(words)))
            self.words += *words, 0  # for categories beyond the set
        return self.numbers[column, words]


@cache
def _library() -> ctypes.PyDLL | None:
    """Return the compiled `trees.c`; its calls are short and hold the interpreter's lock."""
    spec = importlib.util.find_spec(_MODULE)
    if spec is None or spec.origin is None:
        return None
    try:
        lib = ctypes.PyDLL(spec.origin)
        if lib.forest_format() != _FORMAT:
            return None
    except (OSError, AttributeError) as error:
        logger.warning("%s cannot be used: %s", spec.origin, error)
        return None
    lib.forest_open.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    lib.forest_open.restype = ctypes.c_void_p
    lib.forest_score.argtypes = [ctypes.c_void_p] * 3
    if hasattr(lib, "forest_scores"):
        pointers = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p
        lib.forest_scores.argtypes = pointers
    lib.forest_close.argtypes = [ctypes.c_void_p]
    lib.forest_close.restype = None
    return lib
