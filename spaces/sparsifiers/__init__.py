"""Sparsifiers: what drives weights or scaling factors towards zero while a network trains."""

SPARSIFIERS = {"scaling_factor": "spaces.sparsifiers.scaling_factor:ScalingFactor"}
