"""How a candidate is judged: the rows, the metrics, and the gate that promotes it.

Read `metrics` (losses with intervals), `evaluation_sets` (rows and predictions) and `gate`. Where
labels depend on the action: `rewards`, `model_policies` (what models do), `action_sets`,
`action_gate`, and `live_watch`, which takes a model back.
`metrics` and `gate` may not import the lake, the learners or the publisher.

Proved elsewhere: `action_sets` by `tests/trainers/test_action_cycle.py`.
Proved elsewhere: `rewards` by `tests/trainers/evaluation/test_model_policies.py`.
"""
