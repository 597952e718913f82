"""Windows longer than memory: 20 million decisions pending in windows of seven days.

It measures a worker without Kafka (`pendingjoin.py`), which fills a window, continues for a tenth
of it while the oldest decisions close, then closes everything. This module compares the resulting
lake with the logs, decision by decision.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.pendingjoin import NAME
from benchmarks.pendinglogs import Logs, expected, loop
from benchmarks.processes import Measured, module_command
from tidemill.features.lake.lake import Lake, LakeConfig

Say = Callable[[str], None]


def measure_pending(pending: int, memory: str, say: Say) -> dict[str, float]:
    """Return the figures of the report's `pending`.

    Raises:
        RuntimeError: an example is missing, doubled or has a wrong label.
    """
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        command = module_command("pendingjoin", folder, str(pending), memory)
        with Measured(command) as worker:
            figures = worker.result()
        say(f"pending: {figures['away_rows']:,.0f} rows waited away from memory; all come back")
        _check(Path(folder), pending)
    return figures


def _check(folder: Path, pending: int) -> None:
    total = pending + pending // 10
    clicked = expected(Logs(loop(NAME, "1MB"), pending), total)
    seen = np.zeros(total, dtype=np.bool_)
    rows = 0
    table = Lake(LakeConfig(root=str(folder / "lake"))).table(NAME, "examples")
    for part in table.batches(["decision_id", "label", "feedback_offsets"]):
        number = part["decision_id"].str.split("-").list.last().cast(pl.Int64).to_numpy()
        wrong = (part["label"].to_numpy() == 1) != clicked[number]
        wrong |= part["feedback_offsets"].list.len().to_numpy() != clicked[number]
        if wrong.any():
            raise RuntimeError(f"{wrong.sum()} labels are wrong, such as {number[wrong][:3]}")
        seen[number] = True
        rows += len(part)
    if rows != total or not seen.all():
        raise RuntimeError(f"of {total} decisions {seen.sum()} have {rows} examples")
