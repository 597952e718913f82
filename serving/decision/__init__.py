"""One decision: the request, the policy, the event, the answer.

Read `decider`, then `requests` with `values`, `policy`, `event_encoder`, `event_log`, `counters`,
`ids` and `results`.
It may not import `api`, `client`, `model` or `worker`, and makes no HTTP and no Kafka calls. Tests
of `values` are in `test_requests`; those of `event_log` and `results` in `test_decider`.
"""
