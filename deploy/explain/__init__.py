"""A decision made again from the lake, and what it was made of.

Read `logged` (the row of the decision), `remade` (the same answer once more, by serving's own
code) with `loaded` (the model), `contributions` (the parts of a score), `wording` (policy and
exploration in words), then `explanation`. It joins `trainers` and `serving`, which may not import
each other.

Proved elsewhere: `contributions` by `tests/deploy/explain/test_explanation.py`.
Proved elsewhere: `loaded` by `tests/deploy/explain/test_explanation.py`.
Proved elsewhere: `logged` by `tests/deploy/explain/test_explanation.py`.
Proved elsewhere: `remade` by `tests/deploy/explain/test_explanation.py`.
Proved elsewhere: `wording` by `tests/deploy/explain/test_explanation.py`.
"""
