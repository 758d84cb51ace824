"""Importance criteria: one score per coupled channel, a file per family of criteria."""
