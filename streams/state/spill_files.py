"""A spill store in unlinked files, for rows that are read one by one: open feedback and ids.

The kernel deletes an unlinked file when the last process that has it open ends, however it ends.
The next process does not need the files: it recovers from the lake. The page cache belongs to the
kernel; no page stays mapped after a read.
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
    """A spill store of Arrow files in one folder of a local disk."""

    def __init__(self, folder: Path) -> None:
        """Write to *folder*, which must exist."""
        self._folder = folder

    def spill(self, rows: pl.DataFrame) -> "SpillFile":
        """Write *rows* to a file of their own.

        Raises:
            ScratchError: the folder cannot be written to, or the disk is full.
        """
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                rows.write_ipc(file, compression="uncompressed", record_batch_size=len(rows))
                file.flush()
                return SpillFile(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except (OSError, pl.exceptions.ComputeError) as error:
            raise ScratchError(
                f"open windows cannot be spilled to {self._folder}: {error}",
                hint="free space there, point TIDEMILL_SCRATCH at a larger disk, or raise `memory` "
                "in the loop; then start again, nothing is lost",
            ) from error


class SpillFile:
    """Rows in one file, read through a memory map."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._map = mapped
        table = pa.ipc.open_file(pa.py_buffer(mapped)).read_all()
        frame = pl.from_arrow(table, rechunk=False)
        assert isinstance(frame, pl.DataFrame)
        self._frame = frame
        self.release()

    @property
    def nbytes(self) -> int:
        """Zero: rows that were read belong to the caller."""
        return 0

    def take(self, positions: Int64s, columns: Sequence[str]) -> pl.DataFrame:
        """Return *columns* of the rows at *positions*."""
        rows = self._frame.select(columns)[positions]
        self.release()
        return rows

    def release(self) -> None:
        """Return the mapped pages to the kernel."""
        self._map.madvise(mmap.MADV_DONTNEED)
