"""schemas.registry."""
