"""What methods share that train a supernet and search in it."""
