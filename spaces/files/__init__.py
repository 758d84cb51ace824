"""Files of a run: replaced atomically, with a digest inside that tells damage, and read with bounds on size and depth."""
