"""serving.api."""
