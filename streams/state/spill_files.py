"""A store in files without a name, for what is asked for row by row: open feedback, ids.

The kernel removes such a file with the last process that has it open, so nothing is left behind
after any death, and nothing of it is looked at by the next process: that one reads the lake. Pages
of a file are the kernel's to keep and to drop; none stays mapped after a read.
"""

import mmap
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.ipc

from tidemill.errors import ScratchError
from tidemill.streams.units import Int64s


def spill_folder(env: Mapping[str, str]) -> Path:
    """Return TIDEMILL_SCRATCH, or else the system's folder for temporary files."""
    return Path(env.get("TIDEMILL_SCRATCH") or tempfile.gettempdir())


class SpillFiles:
    """Keeps rows as Arrow files in one folder of a local disk."""

    def __init__(self, folder: Path) -> None:
        """Write to *folder*, which has to be there."""
        self._folder = folder

    def spill(self, rows: pl.DataFrame) -> "SpillFile":
        """Write *rows* to a file of their own.

        Raises:
            ScratchError: the folder takes no file, or no more.
        """
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                rows.write_ipc(file, compression="uncompressed", record_batch_size=len(rows))
                file.flush()
                return SpillFile(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, pl.exceptions.ComputeError) as error:
            raise ScratchError(
                f"{self._folder} takes no more of the open windows: {error}",
                hint="free space there, point TIDEMILL_SCRATCH at a larger disk, or raise `memory` "
                "in the loop; then start again, nothing is lost",
            ) from error


class SpillFile:
    """Rows in one file, read where they lie."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        frame = pl.from_arrow(table, rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        self._frame = frame
        self.release()

    @property
    def nbytes(self) -> int:
        """Nothing: what was read is the caller's."""
        return 0

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        """Return *columns* of the rows at *positions*."""
        found = self._frame.select(columns)[positions]
        self.release()
        return found

    def release(self) -> None:
        """Give the pages back to the kernel."""
        self._map.madvise(mmap.MADV_DONTNEED)
