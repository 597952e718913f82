"""schemas.events."""
