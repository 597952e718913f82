"""Loops of one shape run the same instructions, each on values of its own."""

from tidemill.schemas.code import compiled

SOURCE = "def scored(value):\n    return value * weight"


def test_equal_sources_are_one_code_and_keep_their_own_values() -> None:
    """A thousand copies of it would push each other out of the caches of a processor."""
    scopes: list[dict[str, object]] = [{"weight": 2}, {"weight": 3}]
    for scope in scopes:
        exec(compiled(SOURCE, "<test>"), scope)
    first, second = (scope["scored"] for scope in scopes)
    assert callable(first)
    assert callable(second)
    assert (first(10), second(10)) == (20, 30)
    assert getattr(first, "__code__", None) is getattr(second, "__code__", 0)
