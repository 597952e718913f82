"""features.lake."""
