"""The audit: DuckDB computes the join again from the raw tables and compares every row.

Read `oracle` (the rules of the join as one query; it begins with `judged`), `spans` and `plan`
(what to look at), `expected` (what the oracle says of a slice, and the examples that are not
there), `queries` (the comparison, of parts in `fragments`), then `audit` and `report`; `rekeyed`
compares with the topics themselves, `losses` finds what is gone, `propensities` compares the chance
of a policy with its log. It imports `lake` and `sql`, and nothing of `streams`: the oracle shares
no code with the join. It writes nothing.

Proved elsewhere: `expected` by `tests/deploy/reprocess/test_repair.py`.
Proved elsewhere: `fragments` by `tests/features/audit/test_audit.py`.
Proved elsewhere: `judged` by `tests/features/audit/test_oracle.py`.
Proved elsewhere: `plan` by `tests/features/audit/test_audit.py`.
Proved elsewhere: `queries` by `tests/features/audit/test_audit.py`.
Proved elsewhere: `rekeyed` by `tests/streams/rekey/test_overtaking.py`.
Proved elsewhere: `report` by `tests/features/audit/test_audit.py`.
Proved elsewhere: `spans` by `tests/features/audit/test_audit.py`.
Proved elsewhere: `differences` by `tests/features/audit/test_oracle.py`.
"""
