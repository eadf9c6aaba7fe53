"""What to beat: one pruner per module, found by the same folder walk as the methods."""
