"""Wiring and nothing else: the command line, a local Kafka, the processes."""
