"""The learners: LightGBM in batch, River online, and the predictions that judge the latter.

Read `batch`, then `online` (the learner), `prequential` (served predictions) and `online_run`,
which joins the two; `row_by_row` predicts frames by what scores one row. A learner may not import
the gate, the publisher or the trainer.

Proved elsewhere: `row_by_row` by `tests/trainers/learners/test_posteriors.py`.
"""
