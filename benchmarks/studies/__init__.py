"""Studies that make a page of docs, each run with `python -m`."""
