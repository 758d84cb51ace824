"""Output: atomic files, progress and log, numbers in words."""
