"""deploy.demo."""
