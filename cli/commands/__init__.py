"""The functions behind the commands: each parses, calls one function of a package, and prints.

Read `loop.py` first, then any. A module is imported when one of its commands is called; what one
command alone needs is imported in its function. They may import all packages, but not `cli.app`.

Proved elsewhere: `deadletters` by `tests/streams/deadletters/test_redrive.py`.
Proved elsewhere: `demo` by `tests/deploy/demo/test_demo.py`.
Proved elsewhere: `kafka` by `tests/monitor/test_label_lag.py`.
Proved elsewhere: `monitor` by `tests/monitor/test_observer.py`.
Proved elsewhere: `serve` by `tests/serving/test_worker.py`.
Proved elsewhere: `trace` by `tests/monitor/test_trace.py`.
Proved elsewhere: `worker` by `tests/streams/runtime/test_worker.py`.
"""
