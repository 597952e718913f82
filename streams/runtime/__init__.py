"""A streams worker: its process, its Faust agents, and the work on each loop.

Read `worker`, `agents`, `flow_control`, `loop_runner` with `commit_schedule` and
`owned_partition`, `partitions`, then the rest. It may import every other sub-package of streams
but `reprocess`. `agents` and `flow_control` are proved by tests/streams/runtime/test_worker.py,
`owned_partition` and `partitions` by the schedules.
"""
