"""Rollout: how a candidate comes to decide, stage by stage, and what people change by hand.

Read `stages` (the record of each change), `slots` (what the model topic has to hold by them), then
`evidence`, `staging` (what a trainer does) and `by_hand` (what a person does). Nothing here may
import the training cycle.

Proved elsewhere: `slots` by `tests/trainers/rollout/test_stages.py`.
"""
