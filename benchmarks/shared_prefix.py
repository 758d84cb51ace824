"""How much of a child's forward pass runs before the first layer in which it differs from its parent.

    python -m benchmarks.shared_prefix [--children 300]

Children of an evolution differ from their parent by a few switches. What runs before the first layer that differs could be
taken from the parent, its activations and its solved weights alike: the share printed here bounds what that would save. Parents
are uniform ratios, weights are random (the share depends on shapes and on the draws alone).
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from evaluators.cost import count_costs
from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.level_genome import LevelGenome
from search.algorithms.encoding.uniform import uniform
from search.algorithms.evolution import EvolutionSettings
from search.study.problem import Objective, Problem, Target
from spaces import networks
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.execution.hooks import temporary_hooks
from spaces.importance import criterion as importance

CASES = (("resnet20", 0.22), ("resnet20", 0.1), ("vgg_small", 0.1), ("mobilenet_v2_small", 0.25))


def shares(name: str, target: float, children: int) -> Iterator[float]:
    """Yield, child by child, the share of its MACs in the layers before the first one that differs."""
    model, inputs = getattr(networks, name)(in_channels=1, classes=10).eval(), torch.zeros(1, 1, 28, 28)
    space = ChannelMask(model, inputs, ChannelMaskSettings())
    layers = {layer.name: layer for layer in space.groups.layers}
    called: list[tuple[str, float]] = []

    def seen(layer: str) -> Any:
        def hook(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
            channels = np.unique(layers[layer].outputs).size
            called.append((layer, module.get_parameter("weight")[0, 0].numel() * output.numel() / channels))

        return hook

    weighted = [layer for layer in layers if "weight" in dict(model.get_submodule(layer).named_parameters(recurse=False))]
    wide = [layer for layer in weighted if model.get_submodule(layer).get_parameter("weight").dim() > 1]
    with temporary_hooks(model.get_submodule(layer).register_forward_hook(seen(layer)) for layer in wide), torch.no_grad():
        model(inputs)
    tables = {"importance": importance.score(model, space.groups, "l2")}
    limit = Target("macs", target * count_costs(model, inputs)["macs"])
    problem = Problem(space, [Objective("divergence", "minimize")], [limit], tables)
    genomes = LevelGenome(problem, ChannelEncoding(problem))
    parent, rng = uniform(problem), np.random.default_rng(0)
    before = np.append(space.groups.mask(parent), True)
    for _ in range(children):
        child = genomes.candidate(genomes.child(genomes.genome(parent), rng, EvolutionSettings().switches))
        after = np.append(space.groups.mask(child), True)
        shared, costs, same = 0.0, 0.0, True
        for name, each in called:
            read, made = layers[name].inputs, layers[name].outputs
            same = same and bool((before[read] == after[read]).all() and (before[made] == after[made]).all())
            cost = each * after[made].sum() * (1 if layers[name].groups > 1 else after[read].sum())
            shared, costs = shared + same * cost, costs + cost
        yield shared / costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, target in CASES:
        found = list(shares(name, target, options.children))
        print(f"{name} at {target:.0%}: mean {statistics.fmean(found):.3f}, median {statistics.median(found):.3f}")


if __name__ == "__main__":
    main()
