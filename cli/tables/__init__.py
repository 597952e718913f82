"""The tables, lines and JSON documents that commands print, one module for each kind of value.

Read `cli/terminal.py` first, which has the rule for all of them; then any. They print values that
they are given: they may not open a lake, ask Kafka or import `cli.commands`.

Proved elsewhere: `answers` by `tests/cli/commands/test_lake.py`.
Proved elsewhere: `audit` by `tests/cli/commands/test_audit.py`.
Proved elsewhere: `chain` by `tests/monitor/test_observer.py`.
Proved elsewhere: `deadletters` by `tests/streams/deadletters/test_redrive.py`.
Proved elsewhere: `explain` by `tests/cli/commands/test_explain.py`.
Proved elsewhere: `label_lag` by `tests/monitor/test_label_lag.py`.
Proved elsewhere: `lag` by `tests/monitor/lag/test_lag_reader.py`.
Proved elsewhere: `loops` by `tests/cli/commands/test_loop.py`.
Proved elsewhere: `models` by `tests/cli/commands/test_train.py`.
Proved elsewhere: `reprocess` by `tests/cli/commands/test_reprocess.py`.
Proved elsewhere: `sandbox` by `tests/cli/commands/test_sandbox.py`.
Proved elsewhere: `trace` by `tests/monitor/test_trace.py`.
"""
