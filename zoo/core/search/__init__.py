"""Find widths within a budget."""
