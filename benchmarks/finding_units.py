"""How fast units are found, and how much of a network they open, beside Torch-Pruning.

    python -m benchmarks.finding_units [--networks resnet50 ...] [--results FILE]

For every network, in one torch thread: CPU seconds of the labelled pass (``labels``), of it with all checks (``checked``), and
of Torch-Pruning's ``build_dependency`` plus all groups (``peer``); the share of MACs left when a half of every unit goes,
counted on the built network, by either; and the first line of the error where one fails. Torch-Pruning is used as its
documentation begins: the last linear layer is ignored, nothing is said of attention heads. Weights are random, since no
number depends on them. A network is one cell in a folder beside ``--results`` that git ignores; a cell that is there is not
measured again, so that a killed run goes on. The table is printed as Markdown.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn

from evaluators.cost import count_costs
from search.output.atomic import write_json
from spaces.channels.check import find_checked_groups, half_mask
from spaces.channels.groups import find_groups
from spaces.channels.surgery import apply_cut, plan_cut
from spaces.errors import first_line

FAMILIES: dict[str, tuple[str, ...]] = {
    "resnet": ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    "densenet": ("densenet121", "densenet169", "densenet201"),
    "vit": ("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    "": ("res2net50_26w_4s", "cspdarknet53", "skresnet18", "mixnet_s", "poolformer_s12"),
}
"""Networks by family; growth is that from a family's first to its last, where the last has more layers."""
NETWORKS = tuple(name for family in FAMILIES.values() for name in family)
Numbers = dict[str, Any]


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network with random weights, torchvision's where it has one of the name, and one image of 224 or 256 pixels."""
    torch.manual_seed(0)
    if name in torchvision.models.list_models(module=torchvision.models):
        return torchvision.models.get_model(name, weights=None).eval(), torch.randn(1, 3, 224, 224)
    model: nn.Module = timm.create_model(name).eval()
    return model, torch.randn(1, *model.default_cfg["input_size"])  # type: ignore[index]


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """Return the CPU seconds of a call, and its result."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def measured(name: str) -> Numbers:
    """Return all numbers of one network."""
    model, inputs = build(name)
    with torch.no_grad():
        model(inputs)
        forward, _ = seconds(lambda: model(inputs))
    dense = count_costs(model, inputs)["macs"]
    return {"forward": forward, "macs": dense, **_ours(model, inputs, dense), **_peer(model, inputs, dense)}


def _ours(model: nn.Module, inputs: Tensor, dense: float) -> Numbers:
    try:
        labels, found = seconds(lambda: find_groups(model, inputs))
        checked, groups = seconds(lambda: find_checked_groups(model, inputs))
        small = apply_cut(model, plan_cut(groups, half_mask(groups, groups.groups)))
        return {
            "layers": len(found.layers),
            "labels": labels,
            "checked": checked,
            "units": len(groups.groups),
            "left": count_costs(small, inputs)["macs"] / dense,
        }
    except Exception as error:
        return {"error": first_line(error)}


def _peer(model: nn.Module, inputs: Tensor, dense: float) -> Numbers:
    kinds = [nn.modules.conv._ConvNd, nn.Linear]
    head = [[module for module in model.modules() if isinstance(module, nn.Linear)][-1]]
    numbers: Numbers = {}
    try:

        def find() -> list[Any]:
            graph = tp.DependencyGraph().build_dependency(model, example_inputs=inputs)
            return list(graph.get_all_groups(ignored_layers=head, root_module_types=kinds))

        numbers["peer"], _ = seconds(find)
        small = copy.deepcopy(model)
        last = [[module for module in small.modules() if isinstance(module, nn.Linear)][-1]]
        importance = tp.importance.RandomImportance()
        tp.pruner.BasePruner(small, inputs, importance, pruning_ratio=0.5, ignored_layers=last).step()
        with torch.no_grad():
            if small(inputs).shape != model(inputs).shape:
                raise RuntimeError("the outputs have another shape")
        numbers["peer_left"] = count_costs(small, inputs)["macs"] / dense
    except Exception as error:
        numbers["peer_error"] = first_line(error)
    return numbers


def growth(numbers: Mapping[str, Numbers], names: Sequence[str], key: str) -> float:
    """Return the exponent ``b`` of seconds ~ layers ** b, from the first to the last network of a family."""
    first, last = numbers[names[0]], numbers[names[-1]]
    return math.log(last[key] / first[key]) / math.log(last["layers"] / first["layers"])


def summary(numbers: Mapping[str, Numbers]) -> Numbers:
    """Return the ratios of both, and the growth of each with the layers of a family."""
    ratios = [one["labels"] / one["peer"] for one in numbers.values() if "labels" in one and "peer" in one]
    found: Numbers = {"median_ratio": statistics.median(ratios), "worst_ratio": max(ratios)}
    for family, names in FAMILIES.items():
        known = [numbers.get(name, {}) for name in names]
        complete = all("labels" in one and "peer" in one for one in known)
        if family and complete and known[-1]["layers"] > known[0]["layers"]:
            found[f"growth_{family}"] = {key: growth(numbers, names, key) for key in ("forward", "labels", "peer")}
    return found


def table(numbers: Mapping[str, Numbers]) -> str:
    """Return the numbers as a Markdown table."""
    lines = [
        "| network | layers | forward s | labels s | with check s | Torch-Pruning s | ratio | MACs left | TP: MACs left |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in numbers.items():
        ratio = f"{one['labels'] / one['peer']:.2f}" if "labels" in one and "peer" in one else "-"
        ours = f"{one['left']:.1%}" if "left" in one else f"fails: {one['error'][:60]}"
        peer = f"fails: {one['peer_error'][:60]}" if "peer_error" in one else f"{one['peer_left']:.1%}"
        times = " | ".join(f"{one[key]:.2f}" if key in one else "-" for key in ("forward", "labels", "checked", "peer"))
        lines.append(f"| {name} | {one.get('layers', '-')} | {times} | {ratio} | {ours} | {peer} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/finding_units.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    find_checked_groups(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)), torch.randn(1, 3, 4, 4))
    cells, numbers = options.results.with_suffix(""), {}
    for name in options.networks:
        cell = cells / f"{name}.json"
        if not cell.is_file():
            cell.parent.mkdir(parents=True, exist_ok=True)
            write_json(cell, measured(name))
        numbers[name] = json.loads(cell.read_text())
        print(f"{name}: {json.dumps(numbers[name])}", flush=True)
    versions = {package: version(package) for package in ("torch", "timm", "torchvision", "torch-pruning")}
    write_json(options.results, {"versions": versions, "summary": summary(numbers), "networks": numbers})
    print(table(numbers))
    print(json.dumps(summary(numbers), indent=1))


if __name__ == "__main__":
    main()
