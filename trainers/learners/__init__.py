"""trainers.learners."""
