"""How a model gets into a worker: it is read, assembled, tried in a child process, and swapped in.

Read `subscriber` (the topics), `follower` with `followed`, `admission` with `trial_process`,
`trial` and `model_text` (the checks), then `predictor`, `forest` with `trees.c`, and `row_filler`
(scoring).
It may not import `api` or `client`. Only `subscriber` reads from Kafka.

Proved elsewhere: `followed` by `tests/serving/model/test_follower.py`.
Proved elsewhere: `trial` by `tests/serving/model/test_trial_process.py`.
"""
