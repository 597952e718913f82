"""Training: batch and online learners, the gate, the model registry, and publishing.

Read `trainer` (the process), `cycle` (one training cycle) and `commit_log`, then `learners/` and
`evaluation/`, then `registry` and `publisher`; `notifier`, `maintenance` and `rows` serve them.
It may import `schemas`, `features` and `kafka`: no Faust, and not `streams`, `serving`,
`experiments` or `monitor`. Tests of `commit_log` are in `learners/test_online_run`, those of `rows`
in `learners/test_batch`.
"""
