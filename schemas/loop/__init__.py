"""schemas.loop."""
