"""Residual branches and blocks: found in a recorded pass, and gone from the network with all that only they used."""
