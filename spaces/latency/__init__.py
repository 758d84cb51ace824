"""Latency of a network, predicted from measurements of its layers."""
