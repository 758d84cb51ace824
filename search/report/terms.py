"""Explanations of the words of a report, each shown once, where the word stands first."""

from __future__ import annotations

from collections.abc import Iterable

METRIC_TERMS = {
    "top1": "top-1 accuracy: the share of samples whose class is the network's first guess",
    "top5": "top-5 accuracy: the share of samples whose class is among the network's first five guesses",
    "miou": "mean IoU: overlap of predicted and true areas over their union, averaged over the classes",
    "r2": "R2: the share of the targets' variance that the network explains",
    "perplexity": "perplexity: how many next tokens the network hesitates between; lower is better",
    "loss": "loss: the error that training lowers",
    "agreement": "agreement: the share of samples for which the first guess is the dense network's",
    "divergence": "divergence: how far outputs are from those of the network before the search, 0 for none",
    "omega": "Omega: the rise of the loss that rounding to fewer bits is predicted to cause",
    "macs": "MACs: multiplications with an addition that one sample costs, half the floating-point operations",
    "parameters": "parameters: numbers that training has set",
    "size_bytes": "size: bytes of all tensors in the weights file that is delivered",
    "weight_bits": "bits per weight: of the quantized layers, on average; 32 before",
    "bit_operations": "bit operations: MACs times the bits of both factors, what hardware that computes in few bits saves",
    "latency_ms": "latency: time of one call, measured",
    "peak_activation_bytes": "peak activations: the most memory that intermediate results take together",
    "kv_cache_bytes_per_token": "key-value cache: memory that a language model keeps of each token",
}
"""An explanation per metric, without a full stop."""


def explained(names: Iterable[str]) -> str:
    """Return the explanations of metrics as a text of sentences; a metric that is not known has none."""
    found = [METRIC_TERMS[name] for name in dict.fromkeys(names) if name in METRIC_TERMS]
    return " ".join(f"{text[:1].upper()}{text[1:]}." for text in found)
