"""serving.client."""
