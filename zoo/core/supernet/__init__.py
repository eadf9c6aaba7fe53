"""Run a subnet, a block or a stage inside the full network."""
