"""ONNX Runtime sessions and the ONNX form of quantized networks."""
