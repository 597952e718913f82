"""What a join keeps open: rows and ids, in memory or spilled, within a memory budget.

Read `open_state`, `row_buffer` with its `segments`, `dedup` and `key_index` with its `sorted_runs`
and `bloom`, then `spill`, `spill_files` and `memory_budget`. It may import `units` and
`id_hashes`, and knows neither windows nor the lake. `dedup`, `segments`, `sorted_runs` and
`spill_files` are proved by the tests of the modules that use them.
"""
