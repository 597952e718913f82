"""Experiments: reserved for assignment, metrics, effects and tuning; empty in this release.

It may import `schemas`, `features` and `kafka`, not `streams`, `trainers`, `serving` or `monitor`.
"""
