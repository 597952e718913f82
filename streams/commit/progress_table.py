"""The part of a lake table that progress needs, and patience with a lake that refuses."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import polars as pl

from tidemill.errors import FencedError, LakeError
from tidemill.features.lake.commits import CompareAndSwap

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

PATIENCE_S = 30.0  # how long a lake that refuses is asked again before the worker gives up


class ProgressTable(Protocol):
    """The part of a lake table that is needed here; `tidemill.features.lake.lake.Table` has it."""

    def progress(self, app_ids: Iterable[str]) -> dict[str, int | None]:
        """Return the numbers on a fresh snapshot."""

    def append(
        self,
        frame: pl.DataFrame | None,
        *,
        swaps: Sequence[CompareAndSwap],
        metadata: Mapping[str, str] | None = None,
    ) -> int:
        """Commit rows and numbers at once; return the version."""

    def read(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> pl.DataFrame:
        """Return the rows that fulfil *where*."""

    def batches(
        self, columns: Sequence[str] | None = None, where: pl.Expr | None = None
    ) -> Iterator[pl.DataFrame]:
        """Yield the rows that fulfil *where* in portions, in no order."""


def patient(act: Callable[[], Result], *, patience_s: float = PATIENCE_S) -> Result:
    """Do *act*, again and again while the lake refuses, for at most *patience_s* seconds.

    Raises:
        FencedError: at once: another owner is not a matter of patience.
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
