"""Evaluating a pruned candidate as one writes it by hand: deep copy, Torch-Pruning, a plain loop; and the bare passes."""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch_pruning as tp
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.task import Batch
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask


class TorchPruningWay:
    """The straightforward way: deep copy, Torch-Pruning's dependency graph, and its pruning of the same channels."""

    def __init__(self, model: nn.Module, inputs: Tensor, space: ChannelMask) -> None:
        self._model, self._inputs, self._space = model, inputs, space

    def dropped(self, candidate: Candidate) -> dict[str, list[int]]:
        """Return the output channels that go, by the layer that produces them."""
        groups = self._space.groups
        kept = np.append(groups.mask(candidate), True)
        names = {group.name.partition("#")[0] for group in groups.groups}
        outputs = {layer.name: layer.outputs for layer in groups.layers if layer.name in names}
        return {name: np.flatnonzero(~kept[places]).tolist() for name, places in outputs.items()}

    def build(self, dropped: dict[str, list[int]], seconds: dict[str, float]) -> nn.Module:
        """Return the pruned network; ``seconds`` gets the CPU time of the three steps."""
        times = [time.process_time()]
        model = copy.deepcopy(self._model)
        times.append(time.process_time())
        graph = tp.DependencyGraph().build_dependency(model, self._inputs)
        times.append(time.process_time())
        for name, channels in dropped.items():
            layer = model.get_submodule(name)
            linear = isinstance(layer, nn.Linear)
            prune = tp.prune_linear_out_channels if linear else tp.prune_conv_out_channels
            if channels:
                graph.get_pruning_group(layer, prune, channels).prune()
        times.append(time.process_time())
        seconds.update(deep_copy=times[1] - times[0], trace=times[2] - times[1], prune=times[3] - times[2])
        return model


def passes(model: nn.Module, calibration: Sequence[Batch], scored: Sequence[Batch]) -> dict[str, float]:
    """Re-calibrate BatchNorm and score, as one writes it by hand: a plain eager loop."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    model.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
        layer.train()
    right, loss, count = 0.0, 0.0, 0
    with torch.no_grad():
        for inputs, _ in calibration:
            model(inputs)
        model.eval()
        for inputs, labels in scored:
            logits = model(inputs)
            right += float((logits.argmax(dim=1) == labels).sum())
            loss += float(F.cross_entropy(logits, labels, reduction="sum"))
            count += len(labels)
    return {"top1": right / count, "loss": loss / count}


def bare(model: nn.Module, calibration: Sequence[Tensor], scored: Sequence[Tensor]) -> None:
    """Run the forward passes alone, on a network and batches that stand ready."""
    layers = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.inference_mode():
        for layer in layers:
            layer.train()
        for inputs in calibration:
            model(inputs)
        for layer in layers:
            layer.eval()
        for inputs in scored:
            model(inputs)
