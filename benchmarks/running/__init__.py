"""From a suite to its records."""
