"""How a candidate is judged: the rows, the metrics, and the gate that promotes it.

Read `metrics` (losses with intervals), `evaluation_sets` (rows and predictions) and `gate`. Where
labels depend on the action: `rewards`, `model_policies` (what models do), `action_sets`,
`action_gate`, and `live_watch`, which takes a model back. Where requests bring items:
`offered_items`, `item_evaluations` and `item_sets` in the places of `model_policies` and
`action_sets`.
`metrics` and `gate` may not import the lake, the learners or the publisher.

Proved elsewhere: `action_sets` by `tests/trainers/test_action_cycle.py`.
Proved elsewhere: `item_evaluations` by `tests/trainers/evaluation/test_item_sets.py`.
Proved elsewhere: `offered_items` by `tests/trainers/evaluation/test_item_sets.py`.
Proved elsewhere: `rewards` by `tests/trainers/evaluation/test_model_policies.py`.
"""
