"""streams.consumer."""
