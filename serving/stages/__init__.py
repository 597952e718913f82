"""Stages of a rollout in a worker: which model decides whom, and what scores in the shadow.

Read `served_models` (the models of a loop, one for each slot), `decision_stages` (the stage of a
decision), `shadow` (scores after the answer) and `shadow_thread`, in which they are made.
It may not import `decision`, `model`, `worker`, `api` or `client`.
"""
