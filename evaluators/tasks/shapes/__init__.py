"""Images of shapes in noise, drawn from a seed, with targets of several kinds; nothing is read or fetched."""
