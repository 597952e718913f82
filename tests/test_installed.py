"""What users install works where there is no checkout, and on each Python that it promises."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from tests.test_packaging import ROOT, shipped_files

pytestmark = pytest.mark.soak
EXTENSION = "tidemill/serving/model/_trees"


def run(*command: str | Path, folder: Path, status: int = 0) -> str:
    """Run *command* in *folder* as a user would, and return what it prints."""
    ours = ("PYTHONPATH", "KAFKA_BOOTSTRAP_SERVERS", "VIRTUAL_ENV", "MAKEFLAGS")
    env = {key: value for key, value in os.environ.items() if key not in ours}
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the checkout, and the wheel that is built from that sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "-o", folder, ROOT, folder=folder)
    return folder


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    """The wheel."""
    (found,) = dist.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment that holds the wheel alone, without extras."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
    install(folder / "venv" / "bin", str(wheel))
    return folder / "venv" / "bin"


def install(programs: Path, requirement: str) -> None:
    """Install *requirement* with the versions that the project is tested with."""
    pip = (programs / "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "--constraint", ROOT / "constraints.txt", requirement, folder=programs)


def test_a_wheel_from_the_sdist_has_every_file_once(wheel: Path) -> None:
    """The sdist is what distributions build from; links of the checkout do not reach it."""
    names = Counter(name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name)
    compiled = {name for name in names if name.startswith(EXTENSION)}
    assert len(compiled) == 1, "trees.c was not in the sdist, or it did not compile"
    assert names.keys() - compiled == shipped_files()
    assert set(names.values()) == {1}


def test_the_wheel_alone_starts_a_loop(installed: Path, tmp_path: Path) -> None:
    """The first commands of the README need no Kafka and no checkout."""
    tidemill = installed / "tidemill"
    run(tidemill, "init", "loop.yaml", folder=tmp_path)
    run(tidemill, "check", "loop.yaml", folder=tmp_path)
    schema = json.loads(run(tidemill, "schema", folder=tmp_path))
    assert schema == json.loads((tmp_path / "loop.schema.json").read_text())
    missing = run(tidemill, "demo", "--days", "1", folder=tmp_path, status=2)
    assert "pip install 'tidemill[" in missing


def test_the_demo_runs_from_the_wheel(installed: Path, wheel: Path, tmp_path: Path) -> None:
    """It used to look for its flights in a checkout, which only a checkout showed to work."""
    install(installed, f"{wheel}[demo,kafka]")
    run(installed / "tidemill", "demo", "--days", "14", folder=tmp_path)
    report = json.loads((tmp_path / "demo-report.json").read_text())
    assert report["ledger_balanced"] is True
    assert sum(report["examples"].values()) == report["decisions"] > 10_000


def interpreter(version: str) -> str | None:
    """Return a Python of *version* on this machine: on the path, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [f"python{version}", *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
    for candidate in filter(shutil.which, candidates):
        if subprocess.run([candidate, "--version"], capture_output=True).returncode == 0:
            return candidate  # a shim of pyenv would have failed where its version is not set
    return None


@pytest.mark.parametrize("version", ["3.12", "3.13"])
def test_the_fast_tests_pass_on_every_python_promised(version: str) -> None:
    """3.11 runs everything; what another Python lacks or forbids shows in the fast tests."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"no Python {version} on this machine")
    run("make", "fast", f"PYTHON={python}", f"VENV=.venv-{version}", folder=ROOT)
