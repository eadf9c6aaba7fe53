"""Runs told to an experiment tracker, live or from their records."""
