"""What a loop may ask of LightGBM: nothing that opens a file or a connection."""

import pytest

from tidemill.errors import LoopError
from tidemill.schemas.loop.lightgbm_params import ALLOWED, Parameter, Range, check_params


@pytest.mark.parametrize(
    "params",
    [
        {"machines": "10.0.0.1:80"},
        {"forcedbins_filename": "/etc/passwd"},
        {"forcedsplits_filename": "/etc/passwd"},
        {"input_model": "x"},
        {"boosting": "rf"},
        {"linear_tree": True},
        {"sigmoid": 2},
        {"reg_sqrt": True},
        {"early_stopping_round": 5},
        {"nonsense": 1},
        {"objective": "binary"},
        {"num_leaves": 1},
        {"num_leaves": True},
        {"num_leaves": "7"},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"extra_trees": 1},
    ],
)
def test_what_is_not_on_the_list_is_refused(params: dict[str, Parameter]) -> None:
    """LightGBM itself warns at most, and goes on."""
    with pytest.raises(LoopError) as error:
        check_params(params)
    assert next(iter(params)) in error.value.what


def test_a_misspelt_name_and_one_of_the_loop_say_what_to_write() -> None:
    """A list of forty names is no hint."""
    with pytest.raises(LoopError) as misspelt:
        check_params({"num_leafs": 7})
    assert "did you mean num_leaves?" in misspelt.value.hint
    with pytest.raises(LoopError) as of_loop:
        check_params({"num_iterations": 7})
    assert of_loop.value.hint == "write `models.batch.rounds`"


def test_the_ends_of_each_range_are_legal_and_what_is_beyond_is_not() -> None:
    """A limit that is off by one refuses what the page promises."""
    for name, allowed in ALLOWED.items():
        if not isinstance(allowed, Range):
            continue
        kind = float if allowed.is_float else int
        check_params({name: kind(allowed.low)})
        check_params({name: kind(allowed.high)})
        for beyond in (allowed.low - 1, allowed.high * 2):
            with pytest.raises(LoopError):
                check_params({name: kind(beyond)})
