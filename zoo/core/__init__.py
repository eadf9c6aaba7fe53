"""What the methods share, in folders in the order in which data flows."""
