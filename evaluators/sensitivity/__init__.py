"""Predict the rise of the loss that quantization causes, and measure it."""
