"""Latency of pruned networks in ONNX Runtime against their MACs, and what the layer table says of them before they are built.

    python -m benchmarks.latency [--networks resnet20 vgg mobilenet_v2] [--quick]

ResNet-20 and the six-layer VGG at 28 pixels, torchvision's MobileNetV2 at 96, weights as initialized: latency does not hang on
them. Each is brought to 40 % of its MACs by a uniform ratio with channel counts as they come (`round_to: 1`) and in multiples
of 8; and in multiples of 8 with a second target, 55 % of the baseline's latency by the table (a ratio uniform up to what both
targets ask for). Baseline and candidate run in turn, one thread, batch size 1, medians of 200 runs with 95 % intervals, in
CPU time of the thread. `predicted` is from a table that was measured before, fitted to six networks of which the candidate is
none. Every row is a JSON file under ``--results`` that is not measured again. About 3 CPU-minutes without a cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evaluators.latency.latency import Latency, LatencySettings
from evaluators.task import Task
from search.algorithms.encoding.uniform import uniform
from search.output.atomic import write_json
from search.stages.search.latency_tables import LatencyTables
from search.study.problem import Objective, Problem, Target
from spaces.candidate import Candidate
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.importance import criterion as importance
from spaces.networks import resnet20, vgg_small

MACS = 0.4
LATENCY = 0.55
Row = tuple[int, bool]
ROWS: dict[str, Row] = {
    "uniform, round_to 1": (1, False),
    "uniform, round_to 8": (8, False),
    "latency as a second target, round_to 8": (8, True),
}


class Shape(Task):
    """A network without data: all that latency needs."""

    score_name = "top1"
    fingerprint = "none"

    def __init__(self, factory: Callable[[], nn.Module], size: tuple[int, ...]) -> None:
        self._factory, self._size = factory, size

    def build(self) -> nn.Module:
        """Return the network."""
        torch.manual_seed(0)
        return self._factory().eval()

    reference_model = build

    def example_inputs(self) -> torch.Tensor:
        """Return a sample of noise."""
        return torch.randn((1, *self._size), generator=torch.Generator().manual_seed(0))

    def size(self, split: str) -> int:
        """Return 0: there is no data."""
        return 0

    def batches(self, *arguments: Any, **options: Any) -> list[Any]:
        """Return nothing."""
        return []

    def loss(self, *arguments: Any, **options: Any) -> torch.Tensor:
        """Return nothing of use."""
        return torch.zeros(())

    def score(self, *arguments: Any, **options: Any) -> dict[str, torch.Tensor]:
        """Return nothing of use."""
        return {}


def networks() -> dict[str, Shape]:
    """Return the networks by name."""
    import torchvision

    return {
        "resnet20": Shape(lambda: resnet20(in_channels=1, classes=10), (1, 28, 28)),
        "vgg": Shape(lambda: vgg_small(in_channels=1, classes=10), (1, 28, 28)),
        "mobilenet_v2": Shape(torchvision.models.mobilenet_v2, (3, 96, 96)),
    }


def measure(task: Shape, row: Row, settings: LatencySettings) -> dict[str, Any]:
    """Return the figures of one row."""
    step, timed = row
    latency, model, began = Latency(settings), task.build(), time.process_time()
    space = ChannelMask(model, task.example_inputs(), ChannelMaskSettings(round_to=step))
    tables = LatencyTables(latency, model, model, task, None, print)
    tables.fit(space)
    spent = time.process_time() - began
    full = {name: "1" * domain.length for name, domain in space.domains.items()}
    whole = space.costs(Candidate(full))
    targets = [Target("macs", MACS * whole["macs"]), *([Target("latency_ms", LATENCY * tables.reference())] if timed else [])]
    known = {"importance": importance.score(model, space.groups, "l1")}
    candidate = uniform(Problem(space, [Objective("top1", "maximize")], targets, known))
    costs = space.costs(candidate)
    before, after = latency.timings([model, space.realize(model, candidate)], task)
    return {
        "macs": costs["macs"] / whole["macs"],
        "baseline": asdict(before),
        "candidate": asdict(after),
        "share": after.median / before.median,
        "predicted_ms": costs["latency_ms"],
        "error": costs["latency_ms"] / after.median - 1.0,
        "baseline_error": whole["latency_ms"] / before.median - 1.0,
        "table_cpu_seconds": spent,
        "machine": latency.timer.machine(settings.conditions),
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Return the results as text."""
    lines = [f"{'':54}{'MACs':>8}{'baseline':>11}{'candidate':>25}{'share':>8}{'predicted':>11}{'error':>8}{'of baseline':>13}"]
    for name, row in found.items():
        after = row["candidate"]
        interval = f"{after['median']:.3f} ({after['low']:.3f}-{after['high']:.3f}) ms"
        lines.append(
            f"{name:54}{row['macs']:>8.1%}{row['baseline']['median']:>8.3f} ms{interval:>25}{row['share']:>8.1%}"
            f"{row['predicted_ms']:>8.3f} ms{row['error']:>+8.1%}{row['baseline_error']:>+13.1%}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=list(networks()), default=list(networks()))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/latency"))
    parser.add_argument("--cache", help="Folder of measured layers; by default one that is thrown away.")
    parser.add_argument("--quick", action="store_true", help="Few runs of ResNet-20 only, to see that it works.")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = ["resnet20"] if options.quick else options.networks
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        often = {"repetitions": 10, "points": 2} if options.quick else {"repetitions": 200}
        settings = LatencySettings(mode="table", cache=options.cache or folder, **often)  # type: ignore[arg-type]
        for name in names:
            for label, row in ROWS.items():
                path = options.results / f"{name}-{label.replace(', ', '-').replace(' ', '_')}.json"
                if options.quick or not path.exists():
                    found[f"{name}: {label}"] = measure(networks()[name], row, settings)
                    if not options.quick:
                        write_json(path, found[f"{name}: {label}"])
                else:
                    found[f"{name}: {label}"] = json.loads(path.read_text())
                print(table({f"{name}: {label}": found[f"{name}: {label}"]}).splitlines()[-1], flush=True)
    print(table(found))
    if not options.quick:
        write_json(options.results.parent / "latency.json", found)


if __name__ == "__main__":
    main()
