"""The command line: quick help, errors a person can act on, and an exit status that answers."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tidemill.cli.app import COMMANDS, main
from tidemill.errors import BrokerError
from tidemill.kafka import KafkaConfig

HEAVY = {"polars", "duckdb", "deltalake", "lightgbm", "river", "faust", "confluent_kafka", "numpy"}


def command_module(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int) -> None:
    """Add a command `ends` that raises or returns *outcome*."""

    def ends() -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module = ModuleType("tidemill.cli.commands.ends")
    module.__dict__["ends"] = ends
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "ends", ("ends", "ends", "End somehow."))


def test_help_lists_every_command_and_loads_no_room() -> None:
    """A person who asks what there is must not wait for a database to load."""
    script = (
        "import sys; from tidemill.cli.app import main; status = main(['--help']);"
        f"print('loaded:', sorted({HEAVY!r} & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("loaded: []")
    assert all(f" {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_listed_command_exists_and_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The list is written by hand; a renamed function must not leave a dead entry."""
    assert main([name, "--help"]) == 0
    assert f" {name} " in capsys.readouterr().out.splitlines()[1]


def test_an_error_is_what_and_hint_on_stderr_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback is for us; a person gets the next step."""
    command_module(monkeypatch, BrokerError("Kafka is away", hint="start it"))
    assert main(["ends"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "tidemill: Kafka is away\n  hint: start it\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("outcome", "status"), [(0, 0), (1, 1), (3, 3), (KeyboardInterrupt(), 130)]
)
def test_the_status_is_the_answer(
    outcome: BaseException | int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts and supervisors read nothing else."""
    command_module(monkeypatch, outcome)
    assert main(["ends"]) == status


@pytest.mark.parametrize("arguments", [["nope"], ["lag", "--nope"]])
def test_a_wrong_call_is_status_2(arguments: list[str]) -> None:
    """As every other command line does."""
    assert main(arguments) == 2


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    """The first thing a bug report needs."""
    from importlib.metadata import version

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"tidemill {version('tidemill')}\n"


@pytest.mark.kafka
def test_tidemill_kafka_says_where_it_is_and_ends_at_ctrl_c(
    kafka: KafkaConfig, tmp_path: Path
) -> None:
    """The line it prints is meant to be pasted into the next terminal."""
    command = [
        sys.executable,
        "-c",
        "from tidemill.cli.app import main; raise SystemExit(main())",
    ]
    environment = {key: value for key, value in os.environ.items() if "KAFKA" not in key}
    process = subprocess.Popen(
        [*command, "kafka", "--data", str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment, "PATH": "/nowhere", "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Kafka (embedded) answers after")
    assert process.stdout.readline().startswith("export KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, errors) == (0, "")


def test_without_a_broker_only_what_and_hint_are_told() -> None:
    """The client's own log of each attempt would bury the one line a person can act on."""
    script = (
        "import sys; from tidemill.cli import app as cli; from tidemill.kafka import *;"
        "sys.modules['tidemill.cli.commands.asks'] = sys.modules['__main__'];"
        "asks = lambda: partition_count(KafkaConfig('127.0.0.1:1'), 'any', timeout_s=1.0);"
        "cli.COMMANDS['asks'] = ('asks', 'asks', 'Ask nobody.');"
        "sys.exit(cli.main([*sys.argv[1:], 'asks']))"
    )
    quiet, told = (
        subprocess.run([sys.executable, "-c", script, *more], capture_output=True, text=True)
        for more in ((), ("--verbose",))
    )
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert quiet.stderr.startswith("tidemill: topic any could not be looked up at 127.0.0.1:1")
    assert len(quiet.stderr.splitlines()) == 2
    assert "tidemill.librdkafka" in told.stderr
