"""Rollout: how a candidate comes to decide, stage by stage, and what people change by hand.

Read `stages` (the record of each change), `slots` (what the model topic has to hold by them),
`evidence`, `guardrails` and `shadows` (what is known of a candidate), then `staging` (what a
trainer does) and `by_hand` (what a person does). Nothing here may import the training cycle.

Proved elsewhere: `guardrails` by `tests/trainers/rollout/test_staging.py`.
Proved elsewhere: `slots` by `tests/trainers/rollout/test_stages.py`.
"""
