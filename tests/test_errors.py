"""The tree of errors: a class for each thing that a caller can do about it."""

import re

import pytest

import tidemill.errors
from tidemill.errors import TidemillError


def children(kind: type[TidemillError]) -> set[type[TidemillError]]:
    """Return all classes below *kind* that `tidemill.errors` defines."""
    below = {each for each in kind.__subclasses__() if each.__module__ == tidemill.errors.__name__}
    return below.union(*(children(each) for each in below))


def test_the_tree_at_the_top_of_the_file_is_the_tree_of_classes() -> None:
    """People read it there to know what to catch."""
    printed = re.findall(r"^[│├└─\s]*([A-Z]\w+Error)", tidemill.errors.__doc__ or "", re.M)
    assert set(printed) == {each.__name__ for each in {TidemillError} | children(TidemillError)}


def test_an_error_says_what_happened_and_then_what_to_do() -> None:
    """The hint is the part that is read at night."""
    error = TidemillError("Kafka is away", hint="start it")
    assert (error.what, error.hint) == ("Kafka is away", "start it")
    assert str(error).splitlines() == ["Kafka is away", "  hint: start it"]


def test_an_error_without_a_hint_is_refused() -> None:
    """Nobody can act on it."""
    with pytest.raises(TypeError):
        TidemillError("Kafka is away")  # type: ignore[call-arg]
