"""What a method gets and what it returns."""
