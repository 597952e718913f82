"""serving.model."""
