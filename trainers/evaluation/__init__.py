"""trainers.evaluation."""
