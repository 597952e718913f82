"""What the documents say is so: loops are legal, examples fit them, links lead somewhere."""

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import tidemill
from tidemill.cli.catalog import COMMANDS, NOUNS
from tidemill.schemas.loop.definition import Loop
from tidemill.schemas.loop.fields import FieldType
from tidemill.schemas.loop.loop_file import load_loop, parse_loop

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def blocks(page: str, language: str) -> list[str]:
    """Return the code blocks of *language* in a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.M | re.S)


def readme_loop() -> Loop:
    """Return the loop that the README shows."""
    (text,) = blocks("README.md", "yaml")
    return parse_loop(text, file="README.md")


def test_the_loop_of_the_readme_is_legal() -> None:
    """It is the first thing that is copied."""
    assert readme_loop().loop == "flight-delay"


@pytest.mark.parametrize("loop", ["README.md", "examples/flights/loop.yaml"])
def test_the_service_of_the_readme_asks_what_its_loop_and_the_demo_answer(loop: str) -> None:
    """A new user runs it against the demo; a 400 would be the first impression."""
    known = readme_loop() if loop == "README.md" else load_loop(ROOT / loop)
    (program,) = blocks("README.md", "python")
    calls = [node for node in ast.walk(ast.parse(program)) if isinstance(node, ast.Call)]
    asked = next(call for call in calls if ast.unparse(call.func).endswith("get_decision"))
    features: dict[str, object] = ast.literal_eval(asked.args[0])
    required = {name for name, field in known.features.items() if not field.nullable}
    assert required <= features.keys() <= known.features.keys()
    for name, value in features.items():
        is_text = known.features[name].type == FieldType.CATEGORY
        assert isinstance(value, str) == is_text, name
    told = next(call for call in calls if ast.unparse(call.func).endswith("log_feedback"))
    kind: str = ast.literal_eval(told.args[1])
    assert {word.arg for word in told.keywords} == known.feedback[kind].values.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    """A dead link is a promise nobody keeps."""
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_a_page_names_exists(page: Path) -> None:
    """Documentation of a command that was renamed sends people the wrong way at night."""
    code = "\n".join(re.findall(r"^```.*?^```|`[^`\n]+`", page.read_text(), re.M | re.S))
    called = re.findall(r"(?:^|`|\$ )tidemill ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", code, re.M)
    named = {f"{word} {verb}".strip() if word in NOUNS else word for word, verb in called}
    known = {command.name for command in COMMANDS} | {command.alias for command in COMMANDS}
    assert named <= known | {*NOUNS}


MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(tidemill.__path__, "tidemill.")
    if not info.name.endswith("._trees")  # compiled C without Python in it
)


@pytest.mark.parametrize("module", MODULES)
def test_every_example_in_a_docstring_says_what_really_comes_out(module: str) -> None:
    """An example is read before any word around it."""
    assert doctest.testmod(importlib.import_module(module)).failed == 0


def test_there_are_examples_in_docstrings_to_check() -> None:
    """Finding none would look like success."""
    assert doctest.testmod(importlib.import_module("tidemill.streams.join.rules")).attempted > 0
