"""Pytest fixtures for users and for tidemill's own tests: a real Kafka and a real S3 server.

Read kafka.py, then s3.py; docker.py runs both in containers where a Docker engine answers. Product
code does not import this package: it needs pytest, which is not among the dependencies.
"""
