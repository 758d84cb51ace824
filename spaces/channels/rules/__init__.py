"""Rules: what an operator outside the layers does to the labels of channels."""
