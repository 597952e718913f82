"""schemas.models."""
