"""features.audit."""
