"""The run folder: its files, the steps of a run, and going on after a stop."""
