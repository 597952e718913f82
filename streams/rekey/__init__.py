"""Feedback of other keys or partition counts, written once more to where its decisions are.

Read `rekeyer`, then `merge`, which puts several logs in the order of their stream times. It may
import `consumer` and `units`, and neither the join nor the lake.
"""
