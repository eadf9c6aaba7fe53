"""Which channels are the same: labels that flow through one pass without data."""
