"""How a score becomes an action, with the probability that it does.

Read `choice` (the values), `chance` (where randomness comes from), `discrete`, `rankings`,
`numbers` and `item_policies` (the policies by type of decision), then `policies`, which makes the
one of a loop.
It imports nothing of `serving`, and of `schemas` the loop alone.

Proved elsewhere: `choice` by `tests/serving/policies/test_policies.py`.
Proved elsewhere: `exploration` by `tests/serving/policies/test_policies.py`.
"""
