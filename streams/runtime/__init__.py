"""A streams worker: its process, its Faust agents, and the work on each loop.

Read `worker` with `worker_config` and `fit_loops`, `agents`, `flow_control`, `loop_runner` with
`commit_schedule` and `owned_partition`, `partitions`, then the rest. It may import every other
sub-package of streams but `reprocess`.

Proved elsewhere: `commit_schedule` by `tests/streams/runtime/test_loop_runner.py`.
Proved elsewhere: `fit_loops` by `tests/streams/runtime/test_shared_topics.py`.
Proved elsewhere: `flow_control` by `tests/streams/runtime/test_worker.py`.
Proved elsewhere: `owned_partition` by `tests/streams/test_schedules.py`.
Proved elsewhere: `partitions` by `tests/streams/test_schedules.py`.
Proved elsewhere: `prepared_loop` by `tests/streams/runtime/test_loop_runner.py`.
Proved elsewhere: `worker_config` by `tests/streams/runtime/test_worker.py`.
"""
