"""A run on disk: its directory, its reader, resuming, provenance."""
