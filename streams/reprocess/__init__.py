"""streams.reprocess."""
