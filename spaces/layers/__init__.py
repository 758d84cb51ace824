"""Facts of single layers: multiply-accumulates, shapes and BatchNorm statistics."""
