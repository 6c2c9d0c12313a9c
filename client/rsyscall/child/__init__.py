"""Children: how they are made, what they run in, how they become something else."""
