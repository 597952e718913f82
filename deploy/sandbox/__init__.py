"""A run without Kafka: a file of decisions and feedback through the join, the learners, the gate.

Read history.py and past_items.py for the file, then sandbox.py for the run; history_publisher.py
brings a history into a loop on Kafka.

Proved elsewhere: `history_publisher` by `tests/deploy/sandbox/test_sandbox.py`.
Proved elsewhere: `past_items` by `tests/deploy/sandbox/test_history.py`.
"""
