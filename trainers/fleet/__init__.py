"""One process that trains many loops: who owns which, whose turn it is, and what stays in memory.

Read `schedule` (the pure order of work), then `ownership`, `published_loops` and `new_commits`
(what wakes it), `open_cycles` and `model_topic` (what it keeps), and `fleet_trainer` (the process).
It may import what `trainers` may, and the modules of `trainers` themselves; none of those imports
it.

Proved elsewhere: `fleet_config` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `heartbeats` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `model_topic` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `new_commits` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `open_cycles` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `ownership` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `process` by `tests/trainers/fleet/test_fleet_trainer.py`.
Proved elsewhere: `published_loops` by `tests/trainers/fleet/test_fleet_trainer.py`.
"""
