"""deploy.reprocess."""
