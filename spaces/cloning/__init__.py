"""Copies of a network that run no module of the original."""
