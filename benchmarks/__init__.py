"""What tidemill costs, measured on real processes and a real Kafka: `python -m benchmarks`."""
