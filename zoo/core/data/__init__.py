"""Images: named sets, their splits, seeded batches, and the meter that charges them."""
