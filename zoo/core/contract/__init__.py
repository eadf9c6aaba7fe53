"""The checks that every pruner passes, and the trials they are made on."""
