"""Ways to get a process."""
