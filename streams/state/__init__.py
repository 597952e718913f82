"""streams.state."""
