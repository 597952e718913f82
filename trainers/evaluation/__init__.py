"""How a candidate is judged: the rows, the metrics, and the gate that promotes it.

Read `metrics` (losses with intervals), `evaluation_sets` (rows and predictions) and `gate`.
`metrics` and `gate` may not import the lake, the learners or the publisher.
"""
