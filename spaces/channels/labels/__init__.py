"""Labels: which channel every element of every tensor of a forward pass belongs to, and what the pass has recorded."""
