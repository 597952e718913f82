"""The wheel ships every package under one import name, and the project keeps its own rules."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import tidemill
from tidemill.cli.app import main

ROOT = Path(__file__).resolve().parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PYPROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = BUILD["package-dir"]
SHIPPED = {".py", ".avsc", ".json", ".yaml", ".yml", ".typed"}
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


def shipped_files() -> set[str]:
    """Return what a wheel must hold: all code and data in the packages, by its path there."""
    return {
        str(Path(*package.split("."), path.relative_to(ROOT / folder)))
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in SHIPPED and (path.parent / "__init__.py").exists()
    }


def test_the_wheel_gets_each_file_of_the_packages_once_and_nothing_else(tmp_path: Path) -> None:
    """A data file without a pattern in package-data is missing where users install it."""
    where = ("--egg-base", str(tmp_path)), ("--build-lib", str(tmp_path / "lib"))
    command = [sys.executable, "setup.py", "-q", "egg_info", *where[0], "build_py", *where[1]]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    built = [path for path in (tmp_path / "lib").rglob("*") if path.is_file()]
    assert {str(path.relative_to(tmp_path / "lib")) for path in built} == shipped_files()


def test_the_version_is_said_once_and_agrees_everywhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A bug report names the version; two sources of it disagree sooner or later."""
    assert "version" not in PYPROJECT["project"]
    assert importlib.metadata.version("tidemill") == tidemill.__version__
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tidemill {tidemill.__version__}\n"
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.findall(r"^## (\S+)", changelog, re.M)[:2] == ["Unreleased", tidemill.__version__]


@pytest.mark.slow
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


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    """Without the marker in the wheel, a service that calls the clients is checked by nobody."""
    assert BUILD["package-data"]["tidemill"] == ["py.typed"]
    assert (ROOT / "src" / "tidemill" / "py.typed").exists()


def test_the_tour_walks_through_every_folder() -> None:
    """A folder that no walk comes by is one that a newcomer has to guess at."""
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    packages = [name.removeprefix("tidemill.").split(".") for name in BUILD["packages"]]
    folders = {"/".join(parts) + "/" for parts in packages if parts[0] != "tidemill"}
    named = set(re.findall(r"`(?:src/tidemill/)?((?:[\w-]+/)+)", text))
    assert {folder for folder in folders if not any(f.startswith(folder) for f in named)} == set()
