"""The open rows and the ids of a join, in memory or spilled, within a memory budget.

Read `open_state`, `row_buffer` with its `segments`, `dedup` and `key_index` with its `sorted_runs`
and `bloom`, then `spill_store`, `spill_files` and `memory_budget`. It may import `units` and
`id_hashes`, and neither the join's rules nor the lake.

Proved elsewhere: `dedup` by `tests/streams/test_windows_properties.py`.
Proved elsewhere: `segments` by `tests/streams/state/test_row_buffer.py`.
Proved elsewhere: `sorted_runs` by `tests/streams/state/test_key_index.py`.
Proved elsewhere: `spill_files` by `tests/streams/state/test_spill_store.py`.
"""
