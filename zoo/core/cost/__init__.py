"""MACs, parameters and latency of a configuration, without building its network."""
