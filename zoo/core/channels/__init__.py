"""Channel groups, configurations, resizing along them, and the proof that it was right."""
