"""features.sql."""
