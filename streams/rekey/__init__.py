"""streams.rekey."""
