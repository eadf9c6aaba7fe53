"""Published records keep the names of their cells, and sets read from folders get theirs."""
