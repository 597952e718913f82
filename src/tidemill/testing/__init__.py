"""Pytest fixtures for users and for tidemill's own tests: a scripted client, a Kafka, an S3 server.

Read scripted.py with scripted_transport.py (the unit tests of a service), kafka.py, then s3.py;
docker.py runs both in containers where a Docker engine answers. Product code does not import this
package: it needs pytest, which is not among the dependencies.

Proved elsewhere: `docker` by `tests/deploy/local/test_kafka_contract.py`.
Proved elsewhere: `kafka` by `tests/deploy/local/test_kafka_contract.py`.
Proved elsewhere: `missing` by `tests/deploy/local/test_kafka_contract.py`.
Proved elsewhere: `scripted_transport` by `tests/testing/test_scripted.py`.
Proved elsewhere: `s3` by `tests/deploy/local/test_s3_contract.py`.
"""
