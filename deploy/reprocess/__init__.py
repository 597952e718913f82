"""Backfills, replays and repairs as they are run: a worker pool on all cores, or one process.

Read `worker_pool.py`, `backfill.py`, `replay.py`, `repair.py`; what they compute is in
`streams/reprocess/`. It may not import `deploy.local`, `deploy.demo` or `cli`.

Proved elsewhere: `backfill` by `tests/cli/commands/test_reprocess.py`.
Proved elsewhere: `replay` by `tests/streams/reprocess/test_replay.py`.
"""
