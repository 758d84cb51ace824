"""All layers' Hessian traces of a trained ResNet-20 on Fashion-MNIST: together, and layer by layer with curvlinops.

    python -m benchmarks.hessian_trace --data FOLDER [--images 64] [--probes 8] [--stop 0.05]

Two of ours: the Gauss-Newton part summed and only the rest probed (``split``), and all layers probed at once (``probes``). The
second runs until every layer's relative standard error is 5 %, or ``--stop``, from where its time is extrapolated (errors fall
with the square root of time). curvlinops' Hutchinson goes through the layers one after the other; run to the same error it
takes hours, so that it draws ``--probes`` probes per layer, and the number it needs is extrapolated from their spread
(``--whole N`` runs the first N layers to the end, to check that). Times are CPU seconds of one thread, for a machine that does
other things too. Prints a table and writes JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluators.sensitivity.hessian_trace import TraceEstimate, TraceSettings, hessian_traces
from evaluators.sensitivity.split_trace import split_traces
from evaluators.tasks.classification import Classification
from evaluators.tasks.data import DataSettings
from evaluators.tasks.measure import measure
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.small_images import FashionMNIST
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import TrainingSettings
from search.output.atomic import write_json
from spaces.files.tensor_file import write_tensors

CPU = torch.device("cpu")
Numbers = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """How much is computed.

    Attributes:
        images: Images whose mean loss has the Hessian.
        batch: Images of a batch with a probe of its own.
        tolerance: Relative standard error of every trace that times are told for.
        stop: The one at which ours ends.
        most_rounds: Rounds of ours after which it ends without it.
        probes: Probes per layer of curvlinops.
        whole: Layers that curvlinops runs to the tolerance.
        train_images: Images that the network is trained on.
        epochs: Of that training.
    """

    images: int = 64
    batch: int = 4
    tolerance: float = 0.05
    stop: float = 0.05
    most_rounds: int = 2000
    probes: int = 8
    whole: int = 0
    train_images: int = 8192
    epochs: int = 8


QUICK = Plan(images=16, batch=2, tolerance=0.5, stop=0.5, most_rounds=8, probes=2, train_images=512, epochs=1)


def trained(task: Classification, plan: Plan, path: Path) -> nn.Module:
    """Return the trained network, from its file where there is one."""
    model = task.reference_model()
    if path.exists():
        model.load_state_dict(load_file(path))
    else:
        optimizer = OptimizerSettings(lr=0.1, momentum=0.9, weight_decay=5e-4)
        train(model, task, TrainingSettings(plan.epochs, optimizer=optimizer), seed=0, device=CPU)
        write_tensors(path, model.state_dict())
    return model.eval()


def ours(way: str, model: nn.Module, task: Classification, plan: Plan, weights: dict[str, Tensor]) -> Numbers:
    """Return our traces by ``split`` or ``probes``, and what they took."""
    batches = list(task.batches("train", plan.batch, limit=plan.images))
    stop = plan.stop if way == "probes" else plan.tolerance
    settings = TraceSettings(stop, min(8, plan.most_rounds), plan.most_rounds)
    wall, used = time.perf_counter(), time.process_time()
    generator = torch.Generator().manual_seed(0)
    if way == "split":
        found = split_traces(model, weights, batches, task.loss, task.forward, generator, settings)
    else:
        found = hessian_traces(model, weights, batches, task.loss, task.forward, generator, settings, _progress)
    return {
        "seconds": time.process_time() - used,
        "wall_seconds": time.perf_counter() - wall,
        "rounds": found.rounds,
        "largest_relative_error": max(trace.relative_error for trace in found.by_name.values()),
        "converged": found.converged,
        "traces": {name: dataclasses.asdict(trace) for name, trace in found.by_name.items()},
    }


def _progress(rounds: int, error: float) -> None:
    if rounds % 20 == 0:
        print(f"ours: {rounds} rounds, largest relative standard error {error:.3f}", flush=True)


def layer_by_layer(model: nn.Module, task: Classification, plan: Plan, weights: dict[str, Tensor]) -> Numbers:
    """Return curvlinops' traces of each layer's Hessian, and what they took or would take."""
    with warnings.catch_warnings():
        # It and the forward-mode derivatives of torch still use torch.jit.script.
        warnings.simplefilter("ignore", FutureWarning)
        from curvlinops import HessianLinearOperator

        data = list(task.batches("train", plan.images, limit=plan.images))
        generator = torch.Generator().manual_seed(1)
        layers: Numbers = {}
        for place, (name, weight) in enumerate(weights.items()):
            operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), [weight], data, check_deterministic=False)
            values: list[float] = []
            used = time.process_time()
            while len(values) < plan.probes or (place < plan.whole and _trace(values, weight).relative_error > plan.tolerance):
                probe = torch.randint(0, 2, (weight.numel(),), generator=generator).float() * 2 - 1
                values.append(float(probe @ (operator @ probe)))
            seconds = (time.process_time() - used) / len(values)
            trace = _trace(values, weight)
            needed = len(values) * (trace.relative_error / plan.tolerance) ** 2
            layers[name] = {
                **dataclasses.asdict(trace),
                "probes": len(values),
                "seconds_per_probe": seconds,
            }
            print(f"curvlinops: {name}: {trace.value:.3g} ± {trace.standard_error:.2g}, {needed:.0f} probes needed", flush=True)
    return layers


def exact(model: nn.Module, task: Classification, plan: Plan, weights: dict[str, Tensor]) -> Numbers:
    """Return the trace of the smallest layer's Hessian by curvlinops' products with every unit vector: no estimate at all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from curvlinops import HessianLinearOperator

        data = list(task.batches("train", plan.images, limit=plan.images))
        name, weight = min(weights.items(), key=lambda named: named[1].numel())
        operator = HessianLinearOperator(model, nn.CrossEntropyLoss(), [weight], data, check_deterministic=False)
        value = 0.0
        for place in range(weight.numel()):
            unit = torch.zeros(weight.numel())
            unit[place] = 1.0
            value += float((operator @ unit)[place])
    return {"layer": name, "trace": value}


def _trace(values: list[float], weight: Tensor) -> TraceEstimate:
    return TraceEstimate(statistics.fmean(values), statistics.stdev(values) / len(values) ** 0.5, weight.numel())


def compare(own: Numbers, theirs: Numbers, plan: Plan) -> Numbers:
    """Return how one of ours and curvlinops agree, and which is faster.

    Seconds of ours are extrapolated where it stopped before the tolerance. The probes that curvlinops needs are computed with
    our trace for the value, which is known better than by its few probes.
    """
    seconds, distances = 0.0, []
    for name, layer in theirs.items():
        trace = own["traces"][name]
        spread = layer["standard_error"] * layer["probes"] ** 0.5
        needed = max(2.0, (spread / (plan.tolerance * abs(trace["value"]))) ** 2)
        seconds += needed * layer["seconds_per_probe"]
        distances.append(
            (trace["value"] - layer["value"]) / (trace["standard_error"] ** 2 + layer["standard_error"] ** 2) ** 0.5
        )
    own_seconds = own["seconds"] * max(1.0, own["largest_relative_error"] / plan.tolerance) ** 2
    return {
        "tolerance": plan.tolerance,
        "seconds_ours": own_seconds,
        "seconds_layer_by_layer": seconds,
        "times_faster": seconds / own_seconds,
        "largest_distance_in_standard_errors": max(map(abs, distances)),
        "root_mean_square_distance": (sum(value**2 for value in distances) / len(distances)) ** 0.5,
    }


def table(found: Numbers, theirs: Numbers) -> str:
    """Return the traces of every layer, side by side."""
    lines = [f"{'layer':32}{'split':>20}{'probes':>20}{'curvlinops':>20}"]
    for name, layer in theirs.items():
        traces = [found["split"]["traces"][name], found["probes"]["traces"][name], layer]
        cells = [f"{one['value']:.3g} ± {one['standard_error']:.2g}" for one in traces]
        lines.append(f"{name:32}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--images", type=int, default=Plan.images)
    parser.add_argument("--batch", type=int, default=Plan.batch)
    parser.add_argument("--probes", type=int, default=Plan.probes)
    parser.add_argument("--stop", type=float, default=Plan.stop, help="relative standard error at which ours ends")
    parser.add_argument("--whole", type=int, default=Plan.whole)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the benchmark itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen = {name: getattr(options, name) for name in ("images", "batch", "probes", "whole", "stop")}
    plan = QUICK if options.quick else Plan(**chosen)
    data = FashionMNIST(DataSettings(root=options.data, search_size=1500, train_size=plan.train_images))
    task = Classification(ModelSettings("spaces.networks.resnet20", {"in_channels": 1, "classes": 10}), data)
    suffix = "_quick" if options.quick else ""
    options.results.mkdir(parents=True, exist_ok=True)
    model = trained(task, plan, options.results / f"hessian_trace{suffix}.safetensors")
    weights: dict[str, Tensor] = {name: weight for name, weight in model.named_parameters() if weight.ndim > 1}
    found = {way: ours(way, model, task, plan, weights) for way in ("split", "probes")}
    whole = exact(model, task, plan, weights)
    print(f"exact, {whole['layer']}: {whole['trace']:.4g}", flush=True)
    theirs = layer_by_layer(model, task, plan, weights)
    summary = {way: compare(own, theirs, plan) for way, own in found.items()}
    result = {"plan": dataclasses.asdict(plan), "top1": measure(model, task, "search")["top1"], "summary": summary}
    write_json(
        options.results / f"hessian_trace{suffix}.json", {**result, "ours": found, "exact": whole, "layer_by_layer": theirs}
    )
    print(table(found, theirs))
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
