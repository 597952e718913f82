"""Assignment, metrics and tuning: empty in this release, the room is reserved by the plan."""
