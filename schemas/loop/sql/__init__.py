"""The SQL of labels and rewards: from DuckDB's parser to a query that no feedback can stop.

Read `tree`, `allow_list`, `literals`, then `label_query` and `reward_query`; `names` has what is
DuckDB's own. It imports `fields` only. Serving workers read definitions and have no DuckDB, so no
other module of `schemas` but `labels` imports this package, except that definitions read the text
of a label by `counted_kinds`.

Proved elsewhere: `allow_list` by `tests/schemas/loop/test_labels.py`.
Proved elsewhere: `label_query` by `tests/streams/join/test_labels.py`.
Proved elsewhere: `literals` by `tests/schemas/loop/test_labels.py`.
Proved elsewhere: `names` by `tests/schemas/loop/test_labels.py`.
Proved elsewhere: `reward_query` by `tests/schemas/loop/test_rewards.py`.
Proved elsewhere: `tree` by `tests/schemas/loop/test_labels.py`.
"""
