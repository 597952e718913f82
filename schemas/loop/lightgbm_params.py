"""Which parameters of LightGBM a loop may set, by its main names, and in which range.

The rest is refused: some open files or connections (`forcedbins_filename`, `machines`), some make
models that workers do not score (`boosting: rf`, `linear_tree`), some are decided by the loop
itself (`objective`, `seed`), and a name that LightGBM does not know would be passed over.

Source: https://lightgbm.readthedocs.io/en/stable/Parameters.html
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from tidemill.errors import LoopError
from tidemill.schemas.loop.loop_file import LoopFile

Parameter = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from *low* to *high*, both legal; whole ones only unless *is_float*."""

    low: float
    high: float
    is_float: bool = False

    def contains(self, value: Parameter) -> bool:
        """Return whether *value* is a number of this range."""
        kinds = (int, float) if self.is_float else int
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high  # type: ignore[operator]

    def __str__(self) -> str:
        return (
            f"a {'number' if self.is_float else 'whole number'} from {self.low:g} to {self.high:g}"
        )


def _count(low: int, high: int) -> Range:
    return Range(low, high)


def _number(low: float, high: float) -> Range:
    return Range(low, high, is_float=True)


_MANY = 2**31 - 1
_SHARE = _number(1e-6, 1.0)
_AMOUNT = _number(0.0, 1e9)

ALLOWED: Mapping[str, Range | type[bool] | tuple[str, ...]] = {
    "boosting": ("gbdt", "dart"),
    "data_sample_strategy": ("bagging", "goss"),
    "num_threads": _count(0, 1024),
    "num_leaves": _count(2, 4096),
    "max_depth": _count(-1, 64),
    "learning_rate": _number(1e-6, 10.0),
    "min_data_in_leaf": _count(0, _MANY),
    "min_sum_hessian_in_leaf": _AMOUNT,
    "bagging_fraction": _SHARE,
    "pos_bagging_fraction": _SHARE,
    "neg_bagging_fraction": _SHARE,
    "bagging_freq": _count(0, 100_000),
    "feature_fraction": _SHARE,
    "feature_fraction_bynode": _SHARE,
    "extra_trees": bool,
    "max_delta_step": _AMOUNT,
    "lambda_l1": _AMOUNT,
    "lambda_l2": _AMOUNT,
    "min_gain_to_split": _AMOUNT,
    "drop_rate": _number(0.0, 1.0),
    "max_drop": _count(-1, 100_000),
    "skip_drop": _number(0.0, 1.0),
    "xgboost_dart_mode": bool,
    "uniform_drop": bool,
    "top_rate": _number(0.0, 1.0),
    "other_rate": _number(0.0, 1.0),
    "min_data_per_group": _count(1, _MANY),
    "max_cat_threshold": _count(1, 100_000),
    "cat_l2": _AMOUNT,
    "cat_smooth": _AMOUNT,
    "max_cat_to_onehot": _count(1, 100_000),
    "path_smooth": _AMOUNT,
    "scale_pos_weight": _number(1e-6, 1e6),
    "is_unbalance": bool,
    "boost_from_average": bool,
    "max_bin": _count(2, 65_535),
    "min_data_in_bin": _count(1, _MANY),
    "bin_construct_sample_cnt": _count(1, _MANY),
    "use_missing": bool,
}

_OF_THE_LOOP = {
    "objective": "it follows from the type of the label",
    "seed": "write `models.batch.seed`",
    "num_iterations": "write `models.batch.rounds`",
    "metric": "write `gate.metric`",
    "early_stopping_round": "the gate judges on later rows; write `models.batch.rounds`",
}


def check_params(params: Mapping[str, Parameter]) -> None:
    """Refuse a parameter that is not allowed, or a value out of its range.

    Raises:
        LoopError: with what is possible instead.
    """
    for name, value in params.items():
        allowed = ALLOWED.get(name)
        if allowed is None:
            raise LoopError(f"models.batch.params: {name!r} is not allowed", hint=_instead(name))
        if allowed is bool:
            is_legal, wanted = isinstance(value, bool), "true or false"
        elif isinstance(allowed, Range):
            is_legal, wanted = allowed.contains(value), str(allowed)
        else:
            is_legal, wanted = value in allowed, f"one of {', '.join(allowed)}"
        if not is_legal:
            raise LoopError(f"models.batch.params: {name} is {value!r}", hint=f"write {wanted}")


def check_batch_params(read: LoopFile) -> None:
    """Check the parameters that a loop file has for LightGBM.

    Raises:
        LoopError: one is not allowed; with file and line.
    """
    batch = read.loop.models.batch
    for name, value in (batch.params if batch else {}).items():
        try:
            check_params({name: value})
        except LoopError as error:
            line = read.line("models", "batch", "params", name)
            raise LoopError(error.what, hint=error.hint, file=read.file, line=line) from error


def _instead(name: str) -> str:
    if name in _OF_THE_LOOP:
        return _OF_THE_LOOP[name]
    close = difflib.get_close_matches(name, ALLOWED, n=1, cutoff=0.5)
    start = f"did you mean {close[0]}? " if close else ""
    return f"{start}allowed are LightGBM's names {', '.join(ALLOWED)}"
