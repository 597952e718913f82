"""streams.deadletters."""
