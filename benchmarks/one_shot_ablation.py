"""Ablations of one-shot pruning on a ResNet-20: one setting at a time, nothing trained after the checkpoint.

    python -m benchmarks.one_shot_ablation --data FOLDER [--targets 0.22 0.1] [--seeds 3] [--passes 200000] [--rows ROW ...]

Rows are runs of the product that differ from ``evolution`` (its defaults, as many generations as the image passes allow) in one
setting: what is minimized (divergence, or ``top-1`` of labelled images); inputs drawn anew for each comparison, or all steps on
the same images (``fixed inputs``: a pool that the last step takes whole, so that its first steps draw from it, too); number
of switches; children drawn for each that is measured (``preselect``); children and steps of a generation at equal passes; order
in which channels leave; layers solved in the fitness, or at the end alone; statistics of BatchNorm kept, or measured again on
2,048 images behind the solution. Images of the reconstruction are varied on the uniform ratio, without a search.

Left out, since the product has no such switch: statistics that are solved along (a norm's running mean takes the shift of a
solved layer in every row already), and a second pass of the solution over the layers.

Every run is a run folder and every cell a file under ``--results``; a killed benchmark goes on there, and what is done is not
computed again; other passes or sizes need another folder. Prints mean and standard deviation over the seeds of test top-1 and
the paired lead over ``evolution`` (of images: over 768), with an asterisk where it is more than two standard errors; writes
``one_shot_ablation.json`` beside the folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.one_shot import QUICK_LEVELS, arguments, begin, clear, run_stages
from benchmarks.pruning_bench import CPU, Bench, Sizes
from benchmarks.pruning_cells import spread
from evaluators.batch_norm import recalibrate
from evaluators.tasks.measure import measure
from search.algorithms.evolution import EvolutionSettings
from search.export import load
from search.output.atomic import write_json
from spaces.layers.batch_norm import open_statistics

STEPS = ((256, 2), (1024, 1))
SHAPES: dict[str, tuple[int, tuple[tuple[int, int], ...]]] = {
    "4 children, one step": (4, ((1024, 1),)),
    "16 children, 6 survive": (16, ((256, 6), (1024, 1))),
    "32 children, three steps": (32, ((64, 8), (256, 2), (1024, 1))),
}
"""Children and steps of a generation, by row."""
IMAGES = (64, 128, 256, 512, 768, 1024, 2048, 4096)
SOLVED = 768
"""Images of the reconstruction where it is not these that are varied."""


@dataclass(frozen=True)
class Row:
    """One row: a run of the product, and what is measured of it.

    Attributes:
        search: Keys of the search that differ.
        children: Children of a generation.
        steps: Images and survivors of the steps of a generation.
        switches: Most switches of a child.
        preselect: Children that are drawn for each one that is measured.
        at_end: Layers are solved by a stage behind a search that knows of no solution.
        images: Images of the reconstruction of the uniform ratio, which takes the place of a search; None for a search.
        measured_again: Statistics of the result of ``evolution`` are measured again.
        base: Row that leads are taken over.
    """

    search: Mapping[str, Any] = field(default_factory=dict)
    children: int = 8
    steps: tuple[tuple[int, int], ...] = STEPS
    switches: int = 3
    preselect: int = 16
    at_end: bool = False
    images: int | None = None
    measured_again: bool = False
    base: str = "evolution"


def rows() -> dict[str, Row]:
    """Return all rows by name, those that others are compared with before them."""
    top1 = {"evaluate": [{"accuracy": {"split": "search"}}, "cost"], "objectives": {"top1": "maximize"}}
    found = {
        "evolution": Row(),
        "statistics measured again": Row(measured_again=True),
        "top-1": Row(top1),
        # A quarter of the pool is held out: three quarters of 1,365 are the 1,024 images of the last step.
        "fixed inputs": Row({"evaluate": [{"divergence": {"pool": 1365}}, "cost"]}),
        "solved at the end": Row(at_end=True),
        **{f"switches {count}": Row(switches=count) for count in (1, 2, 5)},
        **{f"preselect {count}": Row(preselect=count) for count in (1, 4, 64)},
        **{name: Row(children=children, steps=steps) for name, (children, steps) in SHAPES.items()},
        **{f"order {order}": Row({"importance": order}) for order in ("l2", "l1", "taylor", "bn_scale")},
    }
    base = f"uniform, {SOLVED} images"
    solved = {f"uniform, {count} images": Row(images=count, base=base) for count in (SOLVED, *IMAGES)}
    return {**found, **solved}


@dataclass(frozen=True)
class Cell:
    """A row at a target on a checkpoint.

    Attributes:
        bench: Model, seed, sizes, data and folder.
        target: Share of the checkpoint's MACs.
        name: Name of the row.
        passes: Images that a search may measure candidates on.
        quick: Tiny sizes, to try the benchmark itself.
    """

    bench: Bench[Sizes]
    target: float
    name: str
    passes: int
    quick: bool

    @property
    def run_name(self) -> str:
        """Name of the run folder, of files and of the configuration."""
        words = self.name.replace(",", "").replace(" ", "-")
        return f"{self.bench.model}-{self.bench.seed}-{self.target:g}-{words}"

    def stages(self, row: Row) -> list[dict[str, Any]]:
        """Return the pipeline of a row."""
        images = SOLVED if row.images is None else row.images
        solved = {"images": images // 16 if self.quick else images}
        steps = tuple((images // 16, left) for images, left in row.steps) if self.quick else row.steps
        shape = EvolutionSettings(children=row.children, switches=row.switches, steps=steps)
        generations = max(1, int(self.passes / (shape.passes * steps[-1][0])))
        algorithm = {
            "name": "evolution",
            "children": row.children,
            "generations": generations,
            "switches": row.switches,
            "preselect": row.preselect,
            "steps": [list(step) for step in steps],
        }
        search = {
            "space": {"name": "channel_mask", **({"levels": QUICK_LEVELS} if self.quick else {})},
            "algorithm": algorithm if row.images is None else {"name": "random", "evaluations": 1},
            "evaluate": [{"divergence": {}}, "cost"],
            "objectives": {"divergence": "minimize"},
            "target": {"macs": f"<= {100 * self.target:g}%"},
            "reconstruct": False if row.at_end else solved,
            "baselines": [] if row.images is None else ["uniform"],
            **row.search,
        }
        return [{"search": search}, *([{"reconstruct": solved}] if row.at_end else [])]


def compute(cell: Cell) -> dict[str, Any]:
    """Return test top-1, MACs and CPU seconds of a cell, from its file where it is there."""
    path = cell.bench.folder / f"{cell.run_name}.json"
    if path.exists():
        return dict(json.loads(path.read_text()))
    row, task = rows()[cell.name], cell.bench.task()
    dense = cell.bench.reference_top1(task, cell.bench.reference(task))
    start = time.process_time()
    if row.measured_again:
        base = Cell(cell.bench, cell.target, row.base, cell.passes, cell.quick)
        found = dict(compute(base))
        model = load(cell.bench.folder / "runs" / base.run_name)
        open_statistics(model)
        recalibrate(model, task.batches("train", 256, limit=2048), task.forward, CPU)
        top1, macs = measure(model, task, "test")["top1"], found["macs"]
    else:
        report = run_stages(cell.bench, cell.run_name, cell.stages(row))
        result = report["result"] if row.images is None else report["baselines"]["uniform"]
        top1, macs = result["top1"], result["macs"]
    made = {
        "row": cell.name,
        "target": cell.target,
        "seed": cell.bench.seed,
        "test_top1": top1,
        "reference_test_top1": dense,
        "macs": macs,
        "cpu_seconds": time.process_time() - start,
    }
    write_json(path, made)
    return made


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Return test top-1 and the paired lead over the base of each row, in points, and CPU seconds."""
    lines = []
    known = rows()
    for target in dict.fromkeys(cell["target"] for cell in cells):
        own = [cell for cell in cells if cell["target"] == target]
        dense = list({cell["seed"]: 100 * cell["reference_test_top1"] for cell in own}.values())
        lines.append(f"\nResNet-20 at {target:.0%} of the MACs; the checkpoint has {spread(dense)}")
        lines.append(f"{'test top-1 in %, nothing trained':36}{'':>16}{'lead':>18}{'CPU s':>10}")
        for name in dict.fromkeys(cell["row"] for cell in own):
            found = {cell["seed"]: cell for cell in own if cell["row"] == name}
            base = {cell["seed"]: cell for cell in own if cell["row"] == known[name].base}
            leads = [100 * (cell["test_top1"] - base[seed]["test_top1"]) for seed, cell in found.items() if seed in base]
            lead = spread(leads) + (" *" if clear(leads) else "  ") if leads and name != known[name].base else ""
            seconds = max(cell["cpu_seconds"] for cell in found.values())
            top1 = spread([100 * cell["test_top1"] for cell in found.values()])
            lines.append(f"{name:36}{top1:>16}{lead:>18}{seconds:>10.0f}")
    return "\n".join(lines)


def main() -> None:
    parser = arguments(__doc__, "benchmarks/results/one_shot_ablation")
    parser.add_argument("--targets", type=float, nargs="+", default=[0.22, 0.1])
    parser.add_argument("--rows", nargs="+", default=list(rows()), choices=list(rows()), metavar="ROW")
    options = parser.parse_args()
    sizes = begin(options)
    cells: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        bench = Bench("resnet20", seed, sizes, options.data, options.results)
        for target in options.targets:
            for name in options.rows:
                made = compute(Cell(bench, target, name, 200 if options.quick else options.passes, options.quick))
                cells.append(made)
                place = f"seed {seed} at {target:g}: {name}: test {100 * made['test_top1']:.2f}"
                print(f"{place}, {made['cpu_seconds']:.0f} CPU seconds", flush=True)
    print(table(cells))
    write_json(options.results.with_suffix(".json"), {"sizes": vars(sizes), "passes": options.passes, "cells": cells})


if __name__ == "__main__":
    main()
