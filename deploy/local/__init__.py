"""Kafka, S3 and all processes of a loop on this machine, for development, demo and tests.

Read `kafka.py` (on `jars.py`, `kafka_settings.py`, `folder_lock.py`, `patience.py`; another one is
in `docker_kafka.py`), `supervisor.py`, `stack.py`, then `up.py`; `s3.py` is for tests.
It may not import `deploy.demo`, `deploy.reprocess` or `cli`.

Proved elsewhere: `docker_kafka` by `tests/deploy/local/test_kafka_contract.py`.
Proved elsewhere: `jars` by `tests/deploy/local/test_kafka.py`.
Proved elsewhere: `kafka_settings` by `tests/deploy/local/test_kafka.py`.
Proved elsewhere: `s3` by `tests/deploy/local/test_s3_contract.py`.
"""
