"""A line of the log that is about one partition, or one decision, has it as a field."""

import ast
from collections.abc import Iterator

import pytest
from tests.layout import PACKAGES, ROOT

FIELDS = ("partition", "decision_id")
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def log_calls(source: str) -> Iterator[ast.Call]:
    """Yield the calls of a module's logger."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            is_logger = isinstance(owner, ast.Name) and owner.id == "logger"
            if is_logger and node.func.attr in LEVELS:
                yield node


def told(call: ast.Call) -> set[str]:
    """Return which of `FIELDS` the text of a line is made from."""
    parts = [part for argument in call.args for part in ast.walk(argument)]
    names = {part.attr for part in parts if isinstance(part, ast.Attribute)}
    return (names | {part.id for part in parts if isinstance(part, ast.Name)}) & {*FIELDS}


def given(call: ast.Call) -> set[str]:
    """Return the names of the fields that the call gives with ``extra=``."""
    parts = [part for word in call.keywords if word.arg == "extra" for part in ast.walk(word)]
    return {str(part.value) for part in parts if isinstance(part, ast.Constant)}


def without_field(source: str) -> list[int]:
    """Return the lines of calls that tell a partition or a decision in words alone."""
    return [call.lineno for call in log_calls(source) if not told(call) <= given(call)]


def test_who_searches_by_a_field_finds_each_line() -> None:
    """A log store searches by fields; the words of a sentence change."""
    modules = [module for package in PACKAGES for module in (ROOT / package).rglob("*.py")]
    assert len(modules) > 300
    found = {str(each.relative_to(ROOT)): without_field(each.read_text()) for each in modules}
    assert {module: lines for module, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    ("call", "is_found"),
    [
        ('logger.info("%d", tp.partition)', True),
        ('logger.info("%d", *(topic, partition))', True),
        ('logger.info("%s", each.decision_id, extra={"partition": 1})', True),
        ('logger.info("%d", tp.partition, extra={"partition": tp.partition})', False),
        ('logger.info("%d rows", rows)', False),
    ],
)
def test_a_line_without_its_field_is_found(call: str, is_found: bool) -> None:
    """The negative control of the test before."""
    assert bool(without_field(call)) == is_found
