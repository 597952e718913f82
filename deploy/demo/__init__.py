"""The demo: a year of real flights is played through a whole loop, and its figures are reported.

Read `demo.py` and `flights.py`, then `shards.py`, `playback.py` and `progress.py` for what is sent,
`model_watcher.py` and `report.py` for the figures. It may import `deploy.local`, but not `cli`.

Proved elsewhere: `progress` by `tests/deploy/demo/test_demo.py`.
"""
