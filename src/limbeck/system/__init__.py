"""Files, memory, timing and threads."""
