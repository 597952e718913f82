"""Data in motion: batches from Kafka, the join in event time, examples into the lake."""
