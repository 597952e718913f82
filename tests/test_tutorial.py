"""The tutorial works as it stands, and in the time that it promises."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
RUNS = "All of it runs until Ctrl-C"
PORT = "8700"  # of the page; another one may be free here
FIRST_S, BY_MODEL_S = 120.0, 600.0
DEADLINE_S = 1_200.0

Block = tuple[str, str]


def free_port() -> int:
    """Return a port after which some more are likely to be free."""
    with closing(socket.create_server(("127.0.0.1", 0))) as opened:
        port: int = opened.getsockname()[1]
    return port


def blocks(port: int) -> list[Block]:
    """Return the blocks of the page in order, each with the language, or the file it goes to."""
    text = PAGE.read_text().replace(PORT, str(port))
    found: list[Block] = []
    end = 0
    for block in re.finditer(r"^```(\w+)\n(.*?)^```", text, re.M | re.S):
        language, content = block.groups()
        named = re.findall(r"`(\w+\.(?:py|yaml))`", text[end : block.start()])
        end = block.end()
        found.append((language if language == "sh" else named[-1], content))
    return found


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a new user, who has tidemill and nothing else."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    kept.pop("KAFKA_BOOTSTRAP_SERVERS", None)
    if "TIDEMILL_CACHE" in os.environ:
        kept["TIDEMILL_CACHE"] = os.environ["TIDEMILL_CACHE"]
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PWD": str(folder),
    }


def run(script: str, folder: Path) -> str:
    """Run one block in a shell and return what it prints; it has to end with 0."""
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def first_terminal(script: str, folder: Path) -> Iterator[None]:
    """Run `tidemill up` until the block ends, as Ctrl-C does; wait until it says that it runs."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {script.strip()}"],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    runs = threading.Event()

    def read() -> None:
        for line in process.stdout or ():
            lines.append(line)
            if RUNS in line:
                runs.set()
        runs.set()  # it has ended

    reading = threading.Thread(target=read)
    reading.start()
    try:
        assert runs.wait(DEADLINE_S), lines
        assert any(RUNS in line for line in lines), "".join(lines)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        reading.join()


def seconds(printed: str, what: str) -> float:
    """Return the time that the service has printed for *what*."""
    (found,) = re.findall(rf"^{what} (\d+) s after", printed, re.M)
    return float(found)


@pytest.mark.soak
@pytest.mark.kafka
def test_from_an_empty_folder_to_a_policy_that_earns_more_than_the_default(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Who follows the page has a model that decides before the coffee is cold."""
    began = time.monotonic()
    printed: list[str] = []
    todo = iter(blocks(free_port()))
    for kind, content in todo:
        if kind != "sh":
            (tmp_path / kind).write_text(content)
        elif content.startswith("tidemill up"):
            with first_terminal(content, tmp_path):
                for kind, content in todo:
                    if kind != "sh":
                        (tmp_path / kind).write_text(content)
                    else:
                        printed.append(run(content, tmp_path))
        else:
            printed.append(run(content, tmp_path))
    *_, tried, served, looked = printed
    assert "would decide" in tried
    with capsys.disabled():
        print(f"\n{served}the whole tutorial: {time.monotonic() - began:.0f} s")
    assert seconds(served, "first decision") < FIRST_S
    assert seconds(served, "first decision by a model") < BY_MODEL_S
    default, model = map(float, re.findall(r"([\d.]+) clicks each", served))
    assert model > default * 1.3, "what it was all for"
    assert "promoted" in looked
    assert "adds to" in looked
    assert "differs" not in looked


def test_the_blocks_of_the_tutorial_are_files_and_commands() -> None:
    """A block that the test passes over is one that nobody has run."""
    kinds = [kind for kind, _ in blocks(1)]
    assert [kind for kind in kinds if kind != "sh"] == [
        "headlines.yaml",
        "history.py",
        "service.py",
    ]
    assert kinds.count("sh") == 6
