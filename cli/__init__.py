"""The command line `tidemill`: its commands and the tables they print.

Read `catalog.py` (which commands there are), `app.py` (how one is run), `terminal.py` (how all of
them print), then `commands/` and `tables/`. No other package may import this one.
"""
