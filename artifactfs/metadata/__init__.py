"""What was seen of runs and projects, kept on disk over remounts (docs/semantics.md 8)."""
