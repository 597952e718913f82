"""Deciding: workers that follow the model topic, policies, the HTTP API and the client."""
