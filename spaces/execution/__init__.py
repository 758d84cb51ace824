"""Running networks: forward passes, modes, hooks, randomness, comparison, places in a person's code."""
