"""Kafka, S3 and all processes of a loop on this machine, for development, demo and tests.

Read `kafka.py` (on `jars.py` and `kafka_settings.py`), `supervisor.py`, `stack.py`, then `up.py`;
`s3.py` is for tests. It may not import `deploy.demo`, `deploy.reprocess` or `cli`.
"""
