"""Training: batch and online learners, the gate, the model registry, and publishing.

Read `trainer` (the process), `cycle` (one training cycle) and `commit_log`, then `learners/` and
`evaluation/`, then `registry` and `publisher`; `notifier`, `maintenance`,
`metrics`, `rows`, `item_rows`, `model_trial` and `model_restore` serve them.
It may import `schemas`, `features` and `kafka`: no Faust, and not `streams`, `serving`,
`experiments` or `monitor`.

Proved elsewhere: `commit_log` by `tests/trainers/learners/test_online_run.py`.
Proved elsewhere: `metrics` by `tests/trainers/test_trainer.py`.
Proved elsewhere: `model_trial` by `tests/trainers/test_cycle.py`.
"""
