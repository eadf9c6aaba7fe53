"""The schema of a run and its files; imports no torch."""
