"""Estimates: what a policy would have earned, and how sure that is, from what another one did.

Read `intervals` (means and their intervals), `off_policy` (values of policies by propensities),
`item_positions` (weights in rankings), `group_means` (units that a hash has put into groups) and
`sequences` (intervals that may be looked at again and again).
It imports NumPy and SciPy only: no lake, no SQL, no loop.
"""
