"""Time, bytes and the environment."""
