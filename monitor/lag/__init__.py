"""The lag of consumer groups: which records are unread, and how old the oldest of them is.

Read `group_lag` (the values), `lag_reader` (what others call), `reading` with `group_offsets`,
`unread` and `record_times` (what the child process does), then `log_ends`.
Whatever asks Kafka here does it in a child process: these readings go on through outages.

Proved elsewhere: `group_lag` by `tests/monitor/lag/test_lag_reader.py`.
Proved elsewhere: `group_offsets` by `tests/monitor/lag/test_lag_reader.py`.
Proved elsewhere: `reading` by `tests/monitor/lag/test_lag_reader.py`.
"""

from tidemill.monitor.lag.group_lag import GroupLag, PartitionLag
from tidemill.monitor.lag.lag_reader import LagReader

__all__ = ["GroupLag", "LagReader", "PartitionLag"]
