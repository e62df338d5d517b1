"""How a command starts, speaks and ends."""
