"""The learners: LightGBM in batch, River online, and the predictions that judge the latter.

Read `batch`, then `online` (the learner), `prequential` (served predictions) and `online_run`,
which joins the two. `scaled_linear` and `river_models` are what it learns with; `river_trees`,
`river_classes`, `river_objects` and `river_export` are River's trees, their state and what is
published of them. `row_by_row` predicts frames by what scores one row. A learner may not import the
gate, the publisher or the trainer.

Proved elsewhere: `river_classes` by `tests/trainers/learners/test_river_objects.py`.
Proved elsewhere: `river_trees` by `tests/trainers/learners/test_river_objects.py`.
Proved elsewhere: `river_export` by `tests/trainers/learners/test_river_models.py`.
Proved elsewhere: `scaled_linear` by `tests/trainers/learners/test_online.py`.
Proved elsewhere: `row_by_row` by `tests/trainers/learners/test_posteriors.py`.
"""
