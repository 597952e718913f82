"""The command line `tidemill`: its commands and the tables they print.

Read `catalog.py` (which commands there are), `app.py` (how one is run), `terminal.py` (how all of
them print) with `charts.py` (their pictures), then `commands/` and `tables/`. No other package may
import this one.

Proved elsewhere: `catalog` by `tests/cli/test_app.py`.
Proved elsewhere: `charts` by `tests/cli/commands/test_explain.py`.
Proved elsewhere: `lakes` by `tests/cli/commands/test_lake.py`.
Proved elsewhere: `log_setup` by `tests/cli/test_app.py`.
Proved elsewhere: `options` by `tests/cli/test_app.py`.
Proved elsewhere: `times` by `tests/cli/commands/test_reprocess.py`.
"""
