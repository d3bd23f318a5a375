"""Where the runs of a sweep are executed: each engine is a file of its own."""
