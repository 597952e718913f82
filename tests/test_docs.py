"""What the documents say is so: loops are legal, examples fit them, links lead somewhere."""

import ast
import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import pytest

import tidemill
from tidemill.cli.app import command_tree
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


@pytest.mark.parametrize("loop", ["README.md", "deploy/demo/flights.yaml"])
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


DECISIONS = sorted((ROOT / "docs/decisions").glob("[0-9]*.md"))
SECTIONS = ["Status", "Context", "Decision", "Evidence"]
LINKED = re.compile(r"(Superseded by|supersedes) \[(\d{4})\]\(([^)]+)\)", re.I)


def section(page: Path, name: str) -> str:
    """Return the text of one section of a decision."""
    return page.read_text().split(f"\n## {name}\n")[1].split("\n## ")[0].strip()


def replaced(text: str) -> set[tuple[str, str, str]]:
    """Return what a status says of other decisions: the verb, the number, the file."""
    return {(verb.lower(), number, target) for verb, number, target in LINKED.findall(text)}


def test_decisions_are_numbered_without_a_gap() -> None:
    """A number is how code and pages name a decision, so none is reused or left out."""
    numbers = [int(page.name[:4]) for page in DECISIONS]
    assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name[:4])
def test_a_decision_has_its_number_and_all_sections(page: Path) -> None:
    """A decision without its evidence is an opinion."""
    assert page.read_text().startswith(f"# {int(page.name[:4])}. ")
    headings = re.findall(r"^## (.*)$", page.read_text(), re.M)
    assert headings == SECTIONS
    assert all(section(page, name) for name in SECTIONS)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name[:4])
def test_what_a_decision_says_of_another_is_said_by_the_other_too(page: Path) -> None:
    """Who comes from either side must learn which of the two holds."""
    status = section(page, "Status")
    assert status.startswith(("Proposed.", "Accepted.", "Superseded by ["))
    for verb, number, target in replaced(status):
        assert target.startswith(f"{number}-")
        other = replaced(section(page.parent / target, "Status"))
        back = "superseded by" if verb == "supersedes" else "supersedes"
        assert (back, page.name[:4], page.name) in other


def test_the_index_of_decisions_agrees_with_the_files() -> None:
    """The index is what people read first, and a stale row hides a decision."""
    index = (ROOT / "docs/decisions/README.md").read_text()
    rows = re.findall(r"^\| \[(\d{4})\]\((.+?)\) \| (.+) \| (.+) \|$", index, re.M)
    assert [file for _, file, _, _ in rows] == [page.name for page in DECISIONS]
    for (number, _, title, status), page in zip(rows, DECISIONS, strict=True):
        assert page.name.startswith(f"{number}-")
        assert page.read_text().startswith(f"# {int(number)}. {title}\n")
        assert section(page, "Status").startswith(status.split(" ")[0].rstrip(";"))
        assert replaced(section(page, "Status")) == replaced(status)


def shown_commands() -> list[tuple[str, str]]:
    """Return every command line of the pages' shell examples, with its page."""
    found = []
    for page in PAGES:
        fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.M | re.S)
        shown = "".join(text for language, text in fenced if language in ("", "sh"))
        lines = re.findall(r"^tidemill .*$", shown, re.M)
        found += [(line, str(page.relative_to(ROOT))) for line in lines]
    return found


def options_of(words: list[str]) -> set[str]:
    """Return the options of the command that *words* begin with."""
    called: Any = command_tree(COMMANDS, words[:2])  # Typer's own classes are not public
    while words and hasattr(called, "commands"):
        called = called.commands[words.pop(0)]
    return {name for each in called.params for name in (*each.opts, *each.secondary_opts)}


@pytest.mark.parametrize(("line", "page"), shown_commands())
def test_every_option_an_example_shows_exists(line: str, page: str) -> None:
    """An example is copied as it stands."""
    words = line.partition("  #")[0].removeprefix("tidemill ").split()
    unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", " ".join(words))
    shown = set(re.findall(r"(?<![\w-])--[a-z-]+", unquoted))
    assert not shown or shown <= options_of(words), page


def test_there_are_examples_of_commands_to_check() -> None:
    """Finding none would look like success."""
    assert len(shown_commands()) > 30


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
    assert doctest.testmod(importlib.import_module("tidemill.streams.units")).attempted > 0
