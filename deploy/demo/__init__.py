"""The demo: a year of real flights is played through a whole loop, and its figures are reported.

Read `demo.py`, then `shards.py`, `playback.py` and `progress.py` for the events sent, and
`model_watcher.py` and `report.py` for the figures. It may import `deploy.local`, but not `cli`.
"""
