"""Measure the latency of networks, or add it up from a table of single layers."""
