"""Other libraries as contestants: each decides with its own code, and is needed by nothing else."""
