"""Learning: in batch and online, the gate, and the announcement of models."""
