"""The command line: entry, console, signals."""
