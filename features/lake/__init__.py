"""The lake: Delta tables with rows and progress numbers in one atomic commit, local or on S3.

Read `layouts` (columns), `progress_keys` (numbers), `lake` and `tables` (the interface), then what
they use: `commits`, `handles`, `log_retention`, `storage`; besides `compaction`, `damage` and
`table_repair`, and `memory_tables`, the lake of tests and notebooks. It imports neither `sql` nor
`audit`, and no DuckDB. tests/features/lake/test_tables.py runs one contract suite on Delta and on
memory.

Proved elsewhere: `commits` by `tests/features/lake/test_tables.py`.
Proved elsewhere: `handles` by `tests/features/lake/test_tables.py`.
Proved elsewhere: `log_retention` by `tests/features/lake/test_tables.py`.
Proved elsewhere: `memory_tables` by `tests/features/lake/test_tables.py`.
Proved elsewhere: `storage` by `tests/features/lake/test_tables.py`.
"""
