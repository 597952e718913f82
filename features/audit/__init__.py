"""The audit: DuckDB computes the join again from the raw tables and compares every row.

Read `oracle` (the rules of the join as one query), `spans` and `plan` (what to look at), `queries`
with `checks` and `slices` (the comparison), then `audit` and `report`. It imports `lake` and `sql`,
and nothing of `streams`: the oracle shares no code with the join. It writes nothing.
"""
