"""Reconstruction of a smaller network: its layers solved by least squares against the outputs of the dense one."""
