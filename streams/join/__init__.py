"""streams.join."""
