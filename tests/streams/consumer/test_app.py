"""A Faust app ends its process, even if Faust's own stop fails."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.errors import BrokerError, FencedError
from tidemill.kafka import KafkaConfig
from tidemill.streams.consumer import app as module
from tidemill.streams.consumer.app import GroupConfig, new_app, run_app
from tidemill.streams.consumer.fetch_thread import BatchThread

THREAD = """
import asyncio
from tidemill.streams.consumer.fetch_thread import BatchThread

class Endless:
    is_alive = True

async def main():
    thread = BatchThread.Worker(Endless())
    thread.run = lambda: __import__("threading").Event().wait()
    thread.start()

asyncio.run(main())
"""


def crashed_app(folder: Path, ends: type[BaseException] | None) -> object:
    """Return an app that another worker has fenced, and whose stop raises *ends*, or never ends."""
    app = new_app(KafkaConfig("127.0.0.1:1"), GroupConfig(group="g", data=folder))

    async def start() -> None:
        app._crashed.set()
        app.crash_reason = FencedError("another owns it", hint="start again")
        await asyncio.Event().wait()

    async def stop() -> None:
        if ends is not None:
            raise ends
        await asyncio.Event().wait()

    app.start, app.stop = start, stop
    return app


@pytest.mark.parametrize("ends", [asyncio.CancelledError, None])
def test_a_stop_that_is_left_half_done_hides_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: type[BaseException] | None
) -> None:
    """The operator reads which error ended the worker, and the supervisor gets an exit code."""
    monkeypatch.setattr(module, "STOP_S", 0.1)
    with pytest.raises(FencedError, match="another owns it"):
        asyncio.run(run_app(crashed_app(tmp_path, ends), lambda: False))


def test_a_thread_that_died_ends_the_app_with_its_error(tmp_path: Path) -> None:
    """Who asks whether a new version is there learns why nobody reads the topic any more."""
    app = new_app(KafkaConfig("127.0.0.1:1"), GroupConfig(group="g", data=tmp_path))

    async def start() -> None:
        await asyncio.Event().wait()

    async def stop() -> None:
        """Stop at once."""

    app.start, app.stop = start, stop

    def is_over() -> bool:
        raise BrokerError("the loop topic is not read any more", hint="start again")

    with pytest.raises(BrokerError, match="not read any more"):
        asyncio.run(run_app(app, is_over))


@pytest.mark.slow
def test_a_consumer_that_was_never_stopped_keeps_no_process_alive() -> None:
    """A supervisor starts a worker again when it has ended, and only then."""
    ended = subprocess.run([sys.executable, "-c", THREAD], capture_output=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert BatchThread.Worker(None).daemon
