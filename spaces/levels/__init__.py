"""Levels: the few values of every decision, cheapest first, that a search moves between."""
