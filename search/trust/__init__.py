"""Foreign run folders: their files read within bounds, and networks built from closed lists instead of import paths."""
