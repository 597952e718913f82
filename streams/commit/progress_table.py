"""The port of a lake table with progress numbers, and retries while the lake refuses."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import polars as pl

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.commits import CompareAndSwap

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE_S = 30.0  # how long a call to a lake that refuses is retried before the worker gives up


class ProgressTable(Protocol):
    """A table with rows and progress numbers; `tidemill.features.lake.lake.Table` is one."""

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """Return the numbers of the newest version, None for those that do not exist."""

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit rows and numbers in one version, and return it."""

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*."""

    def batches(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows that fulfil *where* in portions, in no particular order."""


def patient(act: Callable[[], Result], *, patience_s: float = PATIENCE_S) -> Result:
    """Call *act*, and retry while the lake refuses, for at most *patience_s* seconds.

    Raises:
        FencedError: at once, because a retry cannot undo that another worker owns the partition.
        LakeError: the lake still refuses.
    """
    deadline = time.monotonic() + patience_s
    pause_s = 0.2
    while True:
        try:
            return act()
        except FencedError:
            raise
        except LakeError as error:
            if time.monotonic() + pause_s > deadline:
                raise
            logger.warning("the lake refuses, trying again in %.1f s: %s", pause_s, error)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 5.0)
