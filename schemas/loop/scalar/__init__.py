"""TermValue SQL that workers can run: typed terms, what their operations mean, and their functions.

Read `operations` (each operation with its kinds, its SQL and its meaning in Python), `terms` (trees
of them, as JSON and as SQL), `compiled` (a term as a function), `from_sql` (an expression of a
person as a term). A worker has no DuckDB, so only `from_sql` imports it. It imports `fields` and
`sql` only.

Proved elsewhere: `operations` by `tests/schemas/loop/scalar/test_compiled.py`.
"""
