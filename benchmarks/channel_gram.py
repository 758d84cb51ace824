"""Ridge regression on channel Gram matrices, folded into the layers that read them: a peer of the reconstruction.

What the kept channels of a layer's input tell about the removed ones is added to the weights that read them (GRAIL, CPAL
2026): ``W_K <- W_K + W_R G_RK (G_KK + ridge)^-1`` with the Gram matrix G of the input's channels on 128 samples, and a ridge of
1e-3 of the mean diagonal. The bias stays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from evaluators.task import Task
from search.algorithms.encoding.uniform import uniform
from search.study.problem import Objective, Problem, Target
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.hooks import temporary_hooks
from spaces.importance import criterion as importance

SAMPLES = 128
RIDGE = 1e-3


@torch.no_grad()
def folded_uniform(task: Task, model: nn.Module, limit: float) -> nn.Module:
    """Return a network of at most ``limit`` MACs: a uniform ratio by L2 norm, with the removed channels folded in."""
    space = ChannelMask(model, task.example_inputs(), ChannelMaskSettings(compensate=False))
    tables = {"importance": importance.score(model, space.groups, "l2")}
    candidate = uniform(Problem(space, [Objective("top1", "maximize")], [Target("macs", limit)], tables))
    mask = np.append(space.groups.mask(candidate), True)
    readers = {one.name: one for one in space.groups.layers if one.kind.compensable and one.groups == 1}
    grams: dict[str, Tensor] = {}

    def see(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            flat = args[0].movedim(readers[name].channel_dim, -1).flatten(0, -2).double()
            grams[name] = grams.get(name, 0.0) + flat.T @ flat

        return hook

    hooks = (model.get_submodule(name).register_forward_pre_hook(see(name)) for name in readers)
    with temporary_hooks(hooks), evaluation_mode(model):
        for inputs, _ in task.batches("train", SAMPLES, limit=SAMPLES):
            task.forward(model, inputs)
    replaced = {}
    for name, layer in readers.items():
        stay, outputs = torch.from_numpy(mask[layer.inputs]), torch.from_numpy(np.flatnonzero(mask[layer.outputs]))
        weight = model.get_submodule(name).get_parameter("weight")[outputs]
        gram = grams[name]
        kept = gram[stay][:, stay]
        ridge = RIDGE * kept.diagonal().mean() * torch.eye(len(kept), dtype=kept.dtype)
        told = torch.linalg.solve(kept + ridge, gram[stay][:, ~stay]).to(weight)
        replaced[f"{name}.weight"] = weight[:, stay] + torch.einsum("kr,or...->ok...", told, weight[:, ~stay])
    return apply_cut(model, plan_cut(space.groups, mask[:-1]), replaced)
