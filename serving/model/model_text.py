"""Checks the structure of a LightGBM model text before the library loads it.

The library trusts its input: a count that does not match its array, or a child that points back,
crashes the process or loops forever. `read_text` reads every line that the library would read, with
limits, and refuses unknown ones. It returns the trees, which `forest.py` packs.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from tidemill.errors import ModelError

END = "end of trees\n"
MAX_BYTES = 64 * 2**20
MAX_TREES = 10_000
MAX_LEAVES = 1_000_000  # of all trees together

_HEADER = {
    "version",
    "num_class",
    "num_tree_per_iteration",
    "label_index",
    "max_feature_idx",
    "objective",
    "feature_names",
    "monotone_constraints",
    "feature_infos",
    "tree_sizes",
}
_OBJECTIVES = {
    "binary sigmoid:1",
    "cross_entropy",
    "regression",
    "regression_l1",
    "huber",
    "fair",
    "quantile",
    "mape",
    "poisson",
    "tweedie",
    "gamma",
}
_PER_NODE = ("split_feature", "split_gain", "threshold", "decision_type", "left_child")
_PER_NODE_REST = ("right_child", "internal_value", "internal_weight", "internal_count")
_PER_LEAF = ("leaf_value", "leaf_weight", "leaf_count")
_CATEGORICAL = ("num_cat", "cat_boundaries", "cat_threshold")
_TREE = {"num_leaves", "is_linear", "shrinkage"}.union(
    _PER_NODE, _PER_NODE_REST, _PER_LEAF, _CATEGORICAL
)


class Splits(NamedTuple):
    """The splits of one tree: one entry each, the first for the root.

    A child is the index of another split, or ``~leaf``. A split with ``kind & 1`` asks whether a
    category is in a set, and its threshold is the index of the set.
    """

    features: list[int]
    kinds: list[int]
    thresholds: list[float]
    left: list[int]
    right: list[int]


class TextTree(NamedTuple):
    """One tree; a set of categories has one bit for each, in words of 32 bits."""

    leaves: list[float]
    splits: Splits | None  # None for a tree of one leaf
    sets: list[list[int]]


class TreeModel(NamedTuple):
    """A checked model text: its objective, its number of columns and its trees."""

    objective: str
    columns: int
    trees: list[TextTree]


class _TextError(ValueError):
    """An error of the text; `read_text` turns it into a `ModelError`."""


def read_text(text: str, columns: int) -> TreeModel:
    """Read *text*, a LightGBM model that reads *columns* numbers a row.

    Raises:
        ModelError: the text is not a complete, finite, acyclic model with one output and so many
            columns.
    """
    try:
        return _read_model(text, columns)
    except ValueError as error:
        raise ModelError(
            f"the LightGBM text is not a model that can be trusted: {error}",
            hint="publish what Booster.model_to_string() returned, unchanged",
        ) from error


def _read_model(text: str, columns: int) -> TreeModel:
    if len(text) > MAX_BYTES:
        raise _TextError(f"{len(text)} characters are over the limit of {MAX_BYTES}")
    if not (text.isascii() and text.replace("\n", "").isprintable()):
        raise _TextError("it holds characters other than printable ASCII")
    head, _, trees = text.partition("\n\nTree=0\n")
    header = _pairs(head.split("\n"), _HEADER, bare={"tree"})
    _check_header(header, columns)
    sizes = _integers(header, "tree_sizes", 1, MAX_BYTES)
    if not trees or not 1 <= len(sizes) <= MAX_TREES:
        raise _TextError(f"it has {len(sizes)} trees; 1 to {MAX_TREES} are allowed")
    found: list[TextTree] = []
    start, leaves_left = len(head) + 2, MAX_LEAVES
    for number, size in enumerate(sizes):
        block = text[start : start + size]
        if not block.startswith(f"Tree={number}\n"):
            raise _TextError(f"tree {number} does not start where tree_sizes says")
        found.append(_read_tree(block, number, columns, leaves_left))
        leaves_left -= len(found[-1].leaves)
        start += size
    if not text.startswith(END, start):
        raise _TextError("the trees do not end where tree_sizes says")
    return TreeModel(header["objective"], columns, found)


def _check_header(header: dict[str, str], columns: int) -> None:
    wanted = {
        "version": "v4",
        "num_class": "1",
        "num_tree_per_iteration": "1",
        "max_feature_idx": str(columns - 1),
    }
    for key, value in wanted.items():
        if header.get(key) != value:
            raise _TextError(f"{key} is {header.get(key)!r}, not {value!r}")
    if header.get("objective") not in _OBJECTIVES:
        raise _TextError(f"objective {header.get('objective')!r} is not one of {_OBJECTIVES}")
    for key in ("feature_names", "feature_infos"):
        found = len(header.get(key, "").split(" "))
        if found != columns:
            raise _TextError(f"{key} has {found} entries, not {columns}")


def _read_tree(block: str, number: int, columns: int, leaves_left: int) -> TextTree:
    """Return one tree, with at most *leaves_left* leaves."""
    try:
        if not block.endswith("\n\n"):  # the library reads on until there is an empty line
            raise _TextError("no empty line ends it")
        tree = _pairs(block.rstrip("\n").split("\n")[1:], _TREE)
        leaves = _integers(tree, "num_leaves", 1, leaves_left, size=1)[0]
        if tree.get("is_linear", "0") != "0":
            raise _TextError("it has linear leaves")
        values = _floats(tree, "leaf_value", leaves)
        if any(map(math.isinf, [*values, *_floats(tree, "shrinkage", 1)])):
            raise _TextError(
                "a leaf value is infinite"
            )  # a threshold may be: it separates missing values
        _check_sizes(tree, leaves)
        sets = _integers(tree, "num_cat", 0, 10_000_000, size=1)[0]
        if leaves == 1:
            return TextTree(values, None, [])
        splits = _read_splits(tree, leaves, columns)
        return TextTree(values, splits, _read_sets(tree, splits, sets))
    except ValueError as error:
        raise _TextError(f"tree {number}: {error}") from error


def _check_sizes(tree: dict[str, str], leaves: int) -> None:
    """Check the arrays that a prediction does not use; the library reads them too."""
    unused = {"leaf_weight": leaves, "leaf_count": leaves}
    unused |= dict.fromkeys(("split_gain", *_PER_NODE_REST[1:]), leaves - 1)
    for key, size in unused.items():
        if tree.get(key) or (key in tree and leaves > 1):
            _floats(tree, key, size)


def _read_splits(tree: dict[str, str], leaves: int, columns: int) -> Splits:
    nodes = leaves - 1
    splits = Splits(
        _integers(tree, "split_feature", 0, columns - 1, size=nodes),
        _integers(tree, "decision_type", 0, 15, size=nodes),
        _floats(tree, "threshold", nodes),
        _integers(tree, "left_child", -leaves, nodes - 1, size=nodes),
        _integers(tree, "right_child", -leaves, nodes - 1, size=nodes),
    )
    # Each node but the root and each leaf has exactly one parent, and a parent stands before its
    # child: so there is no cycle, and every path ends at a leaf.
    if sorted(splits.left + splits.right) != [*range(-leaves, 0), *range(1, nodes)]:
        raise _TextError("some node or leaf has no parent, or two")
    for node, children in enumerate(zip(splits.left, splits.right, strict=True)):
        if any(0 <= child <= node for child in children):
            raise _TextError(f"node {node} points back to one of {children}")
    return splits


def _read_sets(tree: dict[str, str], splits: Splits, count: int) -> list[list[int]]:
    """Return the sets of categories, after checking that they include those the splits name."""
    used = [t for t, kind in zip(splits.thresholds, splits.kinds, strict=True) if kind & 1]
    if any(not place.is_integer() or not 0 <= place < count for place in used):
        raise _TextError(f"a split names a set of categories outside the {count} there are")
    if not count:
        return []
    bounds = _integers(tree, "cat_boundaries", 0, MAX_BYTES, size=count + 1)
    words = _integers(tree, "cat_threshold", 0, 2**32 - 1)
    if bounds[0] != 0 or bounds[-1] != len(words) or any(a >= b for a, b in pairwise(bounds)):
        raise _TextError("cat_boundaries does not divide cat_threshold")
    return [words[first:end] for first, end in pairwise(bounds)]


def _pairs(lines: Sequence[str], known: set[str], bare: set[str] | None = None) -> dict[str, str]:
    found: dict[str, str] = {}
    for line in lines:
        key, equals, value = line.partition("=")
        if bare and line in bare:
            continue
        if not equals or key not in known or key in found:
            raise _TextError(f"unexpected line {line[:60]!r}")
        found[key] = value
    return found


def _parts(pairs: dict[str, str], key: str, size: int | None) -> list[str]:
    text = pairs.get(key)
    if not text:
        raise _TextError(f"{key} is missing")
    if "_" in text:  # Python would read 1_000; the library would not
        raise _TextError(f"{key} holds {text[:60]!r}")
    parts = text.split(" ")
    if size is not None and len(parts) != size:
        raise _TextError(f"{key} has {len(parts)} entries, not {size}")
    return parts


def _integers(
    pairs: dict[str, str], key: str, low: int, high: int, *, size: int | None = None
) -> list[int]:
    numbers = list(map(int, _parts(pairs, key, size)))
    if min(numbers) < low or max(numbers) > high:
        raise _TextError(f"{key} holds a number outside {low} to {high}")
    return numbers


def _floats(pairs: dict[str, str], key: str, size: int) -> list[float]:
    numbers = list(map(float, _parts(pairs, key, size)))
    if any(map(math.isnan, numbers)):
        raise _TextError(f"{key} holds NaN")
    return numbers
