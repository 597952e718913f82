"""serving.decision."""
