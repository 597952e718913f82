"""How far a playback has come: a bar on a terminal, a line for each month elsewhere."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tidemill.deploy.demo.playback import Step
from tidemill.deploy.demo.shards import Past


class PlaybackProgress:
    """Shows the steps of one playback; *live* returns the model that was published last."""

    def __init__(self, console: Console, past: Past, live: Callable[[], str | None]) -> None:
        self._console, self._live = console, live
        self._progress = Progress(
            TextColumn("{task.fields[day]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[model]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("playback", total=past.events, day="", model="")
        self._month = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, step: Step) -> None:
        """Show that all events of a day are answered."""
        model = self._live() or "no model yet"
        day = step.day.isoformat()
        self._progress.update(
            self._task,
            completed=step.decisions + step.feedback,
            day=day,
            model=f"{model}, {step.sources['model'] / max(1, step.decisions):.0%} by model",
        )
        if day[:7] != self._month and not self._console.is_terminal:
            self._console.print(f"  {day}  {step.decisions:,} decisions  {model}")
        self._month = day[:7]
