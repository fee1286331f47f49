"""The `minirag` command: the operator's door, on top of everything."""
