"""streams.commit."""
