"""Data at rest: the lake, its tables in SQL, training sets, and the audit of what streams wrote.

Read `lake/` (Delta tables and their commits), then `sql/` (views, training sets, backfills), then
`audit/` (the join computed again from the logs). `estimates/` is the arithmetic of what policies
earn. It imports `schemas` only: no Kafka, no Faust, no join of `streams`, no learner.
"""
