"""The wheel ships every package under one import name, and the project keeps its own rules."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS: dict[str, str] = BUILD["package-dir"]
FORBIDDEN = {"pickle", "dill", "cloudpickle", "joblib", "unittest.mock", "mock", "pytest_mock"}


def sources() -> Iterator[Path]:
    """Yield every Python file of the project, tests and tools included."""
    for folder in (*FOLDERS.values(), "tests", "benchmarks", "examples"):
        yield from (ROOT / folder).rglob("*.py")


def imports(tree: ast.Module) -> Iterator[str]:
    """Yield the full name of every module that *tree* imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(("package", "folder"), FOLDERS.items())
def test_an_editor_opens_what_the_build_ships(package: str, folder: str) -> None:
    """Checkers and editors walk src/, setuptools walks package-dir: two views of one tree."""
    seen_by_editors = ROOT.joinpath("src", *package.split("."))
    assert seen_by_editors.resolve() == (ROOT / folder).resolve()


@pytest.mark.parametrize(("package", "folder"), FOLDERS.items())
def test_no_package_is_left_out_of_the_wheel(package: str, folder: str) -> None:
    """An unlisted package works in the checkout and is missing where users install it."""
    base = ROOT / folder
    for init in base.rglob("__init__.py"):
        name = ".".join((package, *init.parent.relative_to(base).parts))
        assert name in BUILD["packages"], f"add {name} to packages in pyproject.toml"


def test_nothing_unpickles_and_nothing_mocks() -> None:
    """A pickle is code of a stranger; a mock is a test of the mock."""
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in sources()
        for name in imports(ast.parse(path.read_text()))
        if name in FORBIDDEN
    }
    assert found == set()


def test_every_file_the_tour_names_is_there() -> None:
    """A newcomer reads the files in the order of how-it-works.md; none may be a dead end."""
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    named = set(re.findall(r"`((?:[\w-]+/)+[\w.-]*)`", text))
    missing = {name for name in named if not (ROOT / name).exists()}
    assert missing == set()


def test_the_tour_walks_through_every_folder() -> None:
    """A folder that no walk comes by is one that a newcomer has to guess at."""
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    packages = [name.removeprefix("tidemill.").split(".") for name in BUILD["packages"]]
    folders = {"/".join(parts) + "/" for parts in packages if parts[0] != "tidemill"}
    named = set(re.findall(r"`(?:src/tidemill/)?((?:[\w-]+/)+)", text))
    assert {folder for folder in folders if not any(f.startswith(folder) for f in named)} == set()
