"""The command line: quick help, errors a person can act on, and an exit status that answers."""

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import get_args

import pytest

from tidemill.cli.app import main
from tidemill.cli.catalog import COMMANDS, NOUNS, Command, Group
from tidemill.errors import BrokerError, ConfigError, LakeError
from tidemill.kafka import KafkaConfig

HEAVY = {"polars", "duckdb", "deltalake", "lightgbm", "river", "faust", "confluent_kafka", "numpy"}
MOVED = [command for command in COMMANDS if command.alias is not None]


def command_that(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | int) -> Command:
    """Return a command `ends` that raises or returns *outcome*."""

    def ends() -> int:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    module = ModuleType("tidemill.cli.commands.ends")
    module.__dict__["ends"] = ends
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Command(name="ends", group="Run", module="ends", function="ends", summary="End.")


def panels(text: str) -> dict[str, list[str]]:
    """Return the names that a help page lists, by the title of their panel."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if title := re.match(r"╭─ (\w+)", line):
            found[title[1]] = []
        elif row := re.match(r"│ ([a-z][a-z-]*) ", line):
            [*found.values()][-1].append(row[1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("page", [[], *([noun] for noun in NOUNS)])
def test_lists_of_commands_load_nothing_heavy(page: list[str]) -> None:
    """A person who asks what there is must not wait for a database to load."""
    script = (
        f"import sys; from tidemill.cli.app import main; status = main([*{page!r}, '--help']);"
        f"print('loaded:', sorted({HEAVY!r} & set(sys.modules))); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("loaded: []")


def test_help_lists_each_command_once_in_one_of_five_groups(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fifty commands on one level are a list that nobody reads."""
    assert main(["--help"]) == 0
    listed = panels(capsys.readouterr().out)
    assert [*listed] == ["Options", *get_args(Group)]
    del listed["Options"]
    wanted: dict[str, list[str]] = {group: [] for group in get_args(Group)}
    for command in COMMANDS:
        if command.words[0] not in wanted[command.group]:
            wanted[command.group].append(command.words[0])
    assert listed == wanted
    assert wanted["Things"] == [*NOUNS]
    times = Counter(name for names in listed.values() for name in names)
    assert set(times.values()) == {1}


@pytest.mark.parametrize("noun", NOUNS)
def test_a_noun_lists_its_verbs(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`tidemill lake --help` is where a person looks next."""
    assert main([noun, "--help"]) == 0
    verbs = [command.words[1] for command in COMMANDS if command.words[0] == noun]
    assert panels(capsys.readouterr().out)["Commands"] == verbs


def test_no_name_is_an_old_one_too() -> None:
    """A word that means two commands would run the wrong one."""
    first_words = {command.words[0] for command in COMMANDS}
    aliases = [command.alias for command in MOVED]
    assert not first_words & {*aliases}
    assert len(aliases) == len({*aliases})
    assert len(COMMANDS) == len({command.name for command in COMMANDS})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_listed_command_exists_and_explains_itself(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """The catalog is written by hand; a renamed function must not leave a dead entry."""
    assert main([*command.words, "--help"]) == 0
    assert f"tidemill {command.name} " in capsys.readouterr().out.splitlines()[1]


@pytest.mark.parametrize("command", MOVED, ids=lambda command: command.name)
def test_an_old_name_is_the_same_command_and_hidden(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scripts go on working; a newcomer sees one name only."""
    pages = []
    for words in (command.words, [str(command.alias)]):
        assert main([*words, "--help"]) == 0
        page = capsys.readouterr().out
        assert f"tidemill {' '.join(words)} " in page
        pages.append(page.replace(f"tidemill {' '.join(words)} ", "tidemill ").split())
        assert main([*words, "--no-such-option"]) == 2
        capsys.readouterr()
    assert pages[0] == pages[1]
    assert main(["--help"]) == 0
    listed = panels(capsys.readouterr().out).values()
    assert command.alias not in [name for names in listed for name in names]


def test_both_names_have_the_same_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A cron line that used the old name must still fail when the command does."""
    ends = command_that(monkeypatch, 3)
    moved = Command(
        name="loop ends", group="Things", module="ends", function="ends", summary="", alias="ends"
    )
    assert main(["loop", "ends"], [moved]) == main(["ends"], [moved]) == 3
    assert main(["ends"], [ends]) == 3
    assert main(["loop", "nope"]) == 2
    assert "nope" in capsys.readouterr().err


def test_an_error_is_what_and_hint_on_stderr_and_has_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback is for us; a person gets the next step."""
    ends = command_that(monkeypatch, BrokerError("Kafka is away", hint="start it"))
    assert main(["ends"], [ends]) == 3
    captured = capsys.readouterr()
    assert captured.err == "tidemill: Kafka is away\n  hint: start it\n"
    assert captured.out == ""


def test_the_traceback_of_a_bug_is_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error quotes what anybody may have sent, and a terminal must not act on it."""
    assert main(["ends"], [command_that(monkeypatch, ValueError("no \x1b[31m number"))]) == 2
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("Traceback")
    assert told[-2:] == [
        r"ValueError: no \x1b[31m number",
        "tidemill: the command failed by an error of its own",
    ]


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (0, 0),
        (1, 1),
        (3, 3),
        (KeyboardInterrupt(), 130),
        (ConfigError("no", hint="say yes"), 2),
        (LakeError("no disk", hint="free one"), 2),
        (ZeroDivisionError("a bug"), 2),
    ],
)
def test_the_status_is_the_answer(
    outcome: BaseException | int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scripts and supervisors read nothing else; 1 is a finding, and never an error."""
    assert main(["ends"], [command_that(monkeypatch, outcome)]) == status


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
def test_tidemill_kafka_prints_its_address_and_ends_at_ctrl_c(
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


@pytest.mark.slow
def test_without_a_broker_only_what_and_hint_are_printed() -> None:
    """The client's own log of each attempt would bury the one line a person can act on."""
    script = (
        "import sys; from tidemill.cli.app import main; from tidemill.cli.catalog import Command;"
        "from tidemill.kafka import *;"
        "sys.modules['tidemill.cli.commands.asks'] = sys.modules['__main__'];"
        "asks = lambda: partition_count(KafkaConfig('127.0.0.1:1'), 'any', timeout_s=1.0);"
        "command = Command(name='asks', group='Run', module='asks', function='asks', summary='');"
        "sys.exit(main([*sys.argv[1:], 'asks'], [command]))"
    )
    quiet, verbose = (
        subprocess.run([sys.executable, "-c", script, *more], capture_output=True, text=True)
        for more in ((), ("--verbose",))
    )
    assert (quiet.returncode, quiet.stdout) == (3, "")
    assert quiet.stderr.startswith("tidemill: topic any could not be looked up at 127.0.0.1:1")
    assert len(quiet.stderr.splitlines()) == 2
    assert "tidemill.librdkafka" in verbose.stderr
