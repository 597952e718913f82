"""cli.tables."""
