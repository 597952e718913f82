"""One decision: the request, the policy, the event, the answer.

Read `decider`, then `requests` with `bodies`, `values`, `items` and `request_time`, `item_answers`,
`event_encoder`, `event_log`, `feedback_events`, `counters`, `ids` and `results`.
It may not import `api`, `client`, `model` or `worker`, and makes no HTTP and no Kafka calls.

Proved elsewhere: `bodies` by `tests/serving/decision/test_requests.py`.
Proved elsewhere: `request_time` by `tests/serving/decision/test_requests.py`.
Proved elsewhere: `feedback_events` by `tests/serving/decision/test_decider.py`.
Proved elsewhere: `event_log` by `tests/serving/decision/test_decider.py`.
Proved elsewhere: `item_answers` by `tests/serving/decision/test_items.py`.
Proved elsewhere: `results` by `tests/serving/decision/test_decider.py`.
Proved elsewhere: `values` by `tests/serving/decision/test_requests.py`.
"""
