"""The story of a run, top to bottom."""
