"""deploy.local."""
