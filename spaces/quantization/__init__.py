"""Quantization: finding what can be quantized, calibration, fake quantization, storage and costs."""
