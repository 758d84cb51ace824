"""Fusion: the merging of connected activations into one, in PyTorch networks, exported programs and ONNX models."""
