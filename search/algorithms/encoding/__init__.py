"""Decisions as arrays, numbers and parameters, shared by the algorithms."""
