"""The lake as SQL: views, states of records, training sets and backfills, by DuckDB.

Read `views` and what its queries consist of (`positions`, `frontiers`, `revisions`, `states`), then
`datasets` and `backfills`; `queries`, `bounded` and `row_files` serve commands. It imports `lake`,
not `audit`, and it writes nothing but the files of backfills.
"""
