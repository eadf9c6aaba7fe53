"""Networks made from networks: rebuilt, widened, folded, saved, exported."""
