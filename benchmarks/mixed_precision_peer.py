"""Sony's model-compression-toolkit, post-training, as the mixed-precision benchmark runs it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from torch import nn

from evaluators.task import Task


def mct_quantized(task: Task, model: nn.Module, weight_bytes: float, samples: int) -> tuple[nn.Module, float]:
    """Return ``model`` quantized after training by the toolkit, and the bytes of its weights.

    Its default target platform (weights of 2, 4 or 8 bits, inputs of 8), its defaults for the rest (thresholds by squared
    error, bias correction, mixed precision by an integer program over distances of activations).

    Args:
        task: Data to calibrate on: the train split, unaugmented.
        model: The network; left unchanged.
        weight_bytes: Most bytes of all weights.
        samples: Images to calibrate on.
    """
    import model_compression_toolkit as mct

    logging.getLogger("Model Compression Toolkit").setLevel(logging.ERROR)
    batches = [inputs.numpy() for inputs, _ in task.batches("train", 64, limit=samples)]

    def images() -> Iterator[list[Any]]:
        for batch in batches:
            yield [batch]

    quantized, info = mct.ptq.pytorch_post_training_quantization(
        model,
        images,
        target_resource_utilization=mct.core.ResourceUtilization(weights_memory=weight_bytes),
        core_config=mct.core.CoreConfig(mixed_precision_config=mct.core.MixedPrecisionQuantizationConfig()),
        target_platform_capabilities=mct.get_target_platform_capabilities(),
    )
    return quantized.eval(), float(info.final_resource_utilization.weights_memory)
