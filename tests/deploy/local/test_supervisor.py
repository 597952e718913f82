"""Child processes: none is lost, none outlives its parent, none crashes unseen."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import start_http_server

from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import Program, Supervisor, answers, tidemill_command
from tidemill.errors import ConfigError
from tidemill.streams.metrics import StreamMetrics


def until(claim: Callable[[], bool], *, timeout_s: float = 120.0) -> None:
    """Return once *claim* holds, and fail if it never does."""
    deadline = time.monotonic() + timeout_s
    while not claim():
        if time.monotonic() > deadline:
            pytest.fail("it never came true")
        time.sleep(0.02)


def python(name: str, code: str, **settings: object) -> Program:
    """Return a program that runs *code*."""
    return Program(name=name, command=[sys.executable, "-c", code], **settings)  # type: ignore[arg-type]  # passed on


def is_alive(pid: int) -> bool:
    """Return whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


SLEEPS = "import time; time.sleep(600)"
STUBBORN = f"""
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
{SLEEPS}
"""


def test_leaving_ends_every_child_even_a_stubborn_one(tmp_path: Path) -> None:
    """A port that stays taken breaks the next start."""
    programs = [python("calm", SLEEPS), python("stubborn", STUBBORN)]
    with Supervisor(programs, logs=tmp_path, say=print, stop_s=0.5) as supervisor:
        until(lambda: "up" in (tmp_path / "stubborn.log").read_text())
        pids = [pid for pid in supervisor.pids.values() if pid]
        assert len(pids) == 2
    assert not any(map(is_alive, pids))


def test_a_crashed_child_is_reported_and_restarted(tmp_path: Path) -> None:
    """A supervisor that hides crashes hides the bug."""
    texts: list[str] = []
    with Supervisor([python("worker", SLEEPS)], logs=tmp_path, say=texts.append) as supervisor:
        first = supervisor.pids["worker"]
        assert first is not None
        os.kill(first, signal.SIGKILL)
        until(lambda: supervisor.pids["worker"] not in (None, first))
        assert supervisor.restarts == {"worker": 1}
    assert "SIGKILL" in texts[0]
    assert "was restarted" in texts[1]


@pytest.mark.slow
def test_a_child_that_crashes_again_and_again_waits_longer_each_time(tmp_path: Path) -> None:
    """Restarting a thousand times a minute is an outage of its own."""
    texts: list[str] = []
    with Supervisor([python("broken", "raise SystemExit(3)")], logs=tmp_path, say=texts.append):
        until(lambda: len(texts) >= 5)
    waits = [text for text in texts if "status 3" in text]
    assert "in 0.5 s" in waits[0]
    assert "in 1 s" in waits[1]
    assert "in 2 s" in waits[2]


def test_readiness_is_waited_for_and_its_absence_explained(tmp_path: Path) -> None:
    """The last words of the log are what the person would have looked for."""
    ready = tmp_path / "ready"
    slow = python("slow", f"open({str(ready)!r}, 'w'); {SLEEPS}", is_ready=lambda _: ready.exists())
    with Supervisor([slow], logs=tmp_path, say=print) as supervisor:
        supervisor.wait_ready(20.0)
        assert ready.exists()
    never = python("never", f"print('no disk', flush=True); {SLEEPS}", is_ready=lambda _: False)
    with Supervisor([never], logs=tmp_path, say=print) as supervisor:
        until(lambda: "no disk" in (tmp_path / "never.log").read_text())
        with pytest.raises(ConfigError, match="no disk"):
            supervisor.wait_ready(0.1)


def test_no_child_outlives_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Nothing can run on kill -9, so the child must notice by itself."""
    code = f"""
import sys, time
from pathlib import Path
from tidemill.deploy.local.kafka_settings import free_port
from tidemill.deploy.local.supervisor import Program, Supervisor
program = Program(name="child", command=[sys.executable, "-c", {SLEEPS!r}])
with Supervisor([program], logs=Path({str(tmp_path)!r}), say=print) as supervisor:
    print(supervisor.pids["child"], flush=True)
    time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not is_alive(child))


def test_the_command_line_runs_in_the_same_environment() -> None:
    """A demo must not start another installation that happens to be on PATH."""
    done = subprocess.run(tidemill_command("--version"), capture_output=True, text=True, check=True)
    assert done.stdout.startswith("tidemill ")


def test_an_address_nobody_listens_on_does_not_answer() -> None:
    """Readiness is asked for long before the port is open."""
    assert not answers("http://127.0.0.1:9/readyz", timeout_s=0.2)


PAGE = """
import http.server, os, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"ready": true, "pid": %d}' % os.getpid()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Page).serve_forever()
"""


def page(port: int) -> Program:
    """Return a program with a page that names its process."""
    url = f"http://127.0.0.1:{port}/"
    return Program(
        name="page",
        command=[sys.executable, "-c", PAGE, str(port)],
        is_ready=lambda pid: answers(url, pid=pid),
        is_alive=lambda pid: answers(url, pid=pid, timeout_s=0.2),
    )


@pytest.mark.slow
def test_another_program_at_its_address_is_not_taken_for_the_child(tmp_path: Path) -> None:
    """A second `up` said ready because the first one answered, and crashed in a loop."""
    port = free_port()
    with Supervisor([page(port)], logs=tmp_path / "first", say=print) as first:
        first.wait_ready(120.0)
        assert answers(f"http://127.0.0.1:{port}/")
        with Supervisor([page(port)], logs=tmp_path / "second", say=print) as second:
            until(lambda: second.restarts["page"] > 0)
            with pytest.raises(ConfigError, match="Address already in use"):
                second.wait_ready(0.5)
        assert first.restarts == {"page": 0}


@pytest.mark.slow
def test_a_child_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    """SIGSTOP, a deadlock: the process is there and nobody is served."""
    texts: list[str] = []
    with Supervisor([page(free_port())], logs=tmp_path, say=texts.append, hung_s=1.0) as supervisor:
        supervisor.wait_ready(120.0)
        first = supervisor.pids["page"]
        assert first is not None
        os.kill(first, signal.SIGSTOP)
        until(lambda: supervisor.pids["page"] not in (None, first))
        supervisor.wait_ready(120.0)
        assert not is_alive(first)
    assert "page has not answered for 1 s" in texts[0]


def test_metrics_name_their_process_too() -> None:
    """Workers and trainers have no other page."""
    server, thread = start_http_server(0, addr="127.0.0.1", registry=StreamMetrics().registry)
    url = f"http://127.0.0.1:{server.server_port}/metrics"
    try:
        assert answers(url, pid=os.getpid(), timeout_s=60.0)
        assert not answers(url, pid=os.getpid() + 1, timeout_s=60.0)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
