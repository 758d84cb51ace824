"""What merging connected activations gains in ONNX Runtime, with its own optimizations fully on.

    python -m benchmarks.activation_fusion [--runs 200] [--results FILE]

Each case is an ONNX file before and after ``python -m search fuse``, on one thread: chains of two to five activations on a
feature map with a convolution around them, and ResNet-18, MobileNetV2 and VGG-11 with a second activation behind each.
Reported: nodes as the file has them and as ONNX Runtime runs them after its optimizations; the median time of a run, the two
files taking turns, on both clocks (on a machine that others use too, the CPU time is the one to compare); and the most
resident memory that loading and running a file adds to a process. Before: ``torch.onnx.export`` as it is by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import torchvision
from torch import nn

from benchmarks.stopwatch import Stopwatch
from evaluators.onnx.session import open_session
from search.fusing import fuse_file
from search.output.atomic import write_json

Numbers = dict[str, Any]

MEMORY = """
import sys
from pathlib import Path
import numpy as np, onnxruntime
def memory(name):
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
feed = np.ones([int(size) for size in sys.argv[2].split(",")], np.float32)
Path("/proc/self/clear_refs").write_text("5")
before = memory("VmRSS")
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
for _ in range(3):
    session.run(None, {session.get_inputs()[0].name: feed})
print(memory("VmHWM") - before)
"""
"""What a process of its own runs; the peak of resident memory is set back before the file is loaded."""


def slopes(channels: int) -> nn.PReLU:
    """Return a PReLU with slopes of both signs."""
    module = nn.PReLU(channels)
    with torch.no_grad():
        module.weight.copy_(torch.linspace(-0.5, 0.5, channels))
    return module


def chain(*activations: nn.Module) -> nn.Module:
    """Return activations on 64 channels, between two convolutions of 1x1."""
    return nn.Sequential(nn.Conv2d(3, 64, 1), *activations, nn.Conv2d(64, 8, 1)).eval()


def doubled(model: nn.Module, second: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Put a second activation behind every ReLU and ReLU6."""
    for name, module in list(model.named_modules()):
        if type(module) in (nn.ReLU, nn.ReLU6):
            model.set_submodule(name, nn.Sequential(type(module)(), second(module)))
    return model.eval()


def leaky_pair(model: nn.Module) -> nn.Module:
    """Turn every ReLU and ReLU6 into two LeakyReLUs, which ONNX Runtime does not merge by itself."""
    for name, module in list(model.named_modules()):
        if type(module) in (nn.ReLU, nn.ReLU6):
            model.set_submodule(name, nn.Sequential(nn.LeakyReLU(0.2), nn.LeakyReLU(0.5)))
    return model.eval()


CHAIN = (1, 3, 112, 112)
IMAGE = (1, 3, 224, 224)
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "2: ReLU, ReLU": (lambda: chain(nn.ReLU(), nn.ReLU()), CHAIN),
    "2: ReLU, ReLU6": (lambda: chain(nn.ReLU(), nn.ReLU6()), CHAIN),
    "2: ReLU, LeakyReLU": (lambda: chain(nn.ReLU(), nn.LeakyReLU(0.1)), CHAIN),
    "2: LeakyReLU, LeakyReLU": (lambda: chain(nn.LeakyReLU(0.2), nn.LeakyReLU(0.5)), CHAIN),
    "2: PReLU, PReLU": (lambda: chain(slopes(64), slopes(64)), CHAIN),
    "3: LeakyReLU, PReLU, LeakyReLU": (lambda: chain(nn.LeakyReLU(0.2), slopes(64), nn.LeakyReLU(0.5)), CHAIN),
    "5: PReLU": (lambda: chain(*(slopes(64) for _ in range(5))), CHAIN),
    "ResNet-18, ReLU and LeakyReLU": (
        lambda: doubled(torchvision.models.resnet18(), lambda first: nn.LeakyReLU(0.1)),
        IMAGE,
    ),
    "ResNet-18, two LeakyReLUs": (lambda: leaky_pair(torchvision.models.resnet18()), IMAGE),
    "MobileNetV2, ReLU6 twice": (lambda: doubled(torchvision.models.mobilenet_v2(), lambda first: nn.ReLU6()), IMAGE),
    "VGG-11, ReLU and PReLU": (lambda: doubled(torchvision.models.vgg11(init_weights=False), lambda first: nn.PReLU()), IMAGE),
}


def export(model: nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write ``model`` as an ONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (torch.randn(shape),), dynamo=True, verbose=False)
    if program is None:
        raise RuntimeError("the export gave nothing")
    program.save(str(path))


def session(path: Path, optimized: Path | None = None) -> Any:
    """Load a file with all of ONNX Runtime's optimizations, on one thread."""
    written: dict[str, Any] = {} if optimized is None else {"optimized_model_filepath": str(optimized)}
    return open_session(str(path), graph_optimization_level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL, **written)


def measure(model: nn.Module, shape: tuple[int, ...], runs: int, folder: Path) -> Numbers:
    """Return nodes, milliseconds and memory before and after."""
    files = {"before": folder / "before.onnx", "after": folder / "after.onnx"}
    export(model, shape, files["before"])
    told = list(fuse_file(files["before"], files["after"], literal=False, shapes={}))
    numbers: Numbers = {"chains": int(told[0].partition("chains merged: ")[2].partition(";")[0]), "comparison": told[-2]}
    sessions = {way: session(path, folder / f"{way}.optimized.onnx") for way, path in files.items()}
    feed = {sessions["before"].get_inputs()[0].name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    watch = Stopwatch()
    for turn in range(runs + 5):
        if turn == 5:
            watch = Stopwatch()
        for way in files if turn % 2 else reversed(files):
            watch.time(way, sessions[way].run, None, feed)
    spent = watch.milliseconds()
    for way, path in files.items():
        numbers[way] = {
            "nodes": len(onnx.load(path, load_external_data=False).graph.node),
            "nodes_run": len(onnx.load(folder / f"{way}.optimized.onnx", load_external_data=False).graph.node),
            **spent[way],
            "memory_bytes": memory(path, shape),
        }
    before, after = numbers["before"], numbers["after"]
    numbers["nodes_removed"] = before["nodes"] - after["nodes"]
    numbers["time_ratio"] = watch.ratio("before", "after")
    numbers["memory_ratio"] = before["memory_bytes"] / after["memory_bytes"]
    return numbers


def memory(path: Path, shape: tuple[int, ...]) -> int:
    """Return the bytes that loading and running a file adds to a process's peak."""
    command = [sys.executable, "-c", MEMORY, str(path), ",".join(map(str, shape))]
    done = [int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) * 1024 for _ in range(3)]
    return int(statistics.median(done))


def main() -> None:
    """Measure every case, print a table and write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/activation_fusion.json"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    rows: Numbers = {}
    print(f"{'':34} {'nodes':>10} {'as run':>10} {'CPU ms':>10} {'after':>8} {'times':>6} {'memory':>7}")
    for name, (build, shape) in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            runs = arguments.runs if shape == CHAIN else max(20, arguments.runs // 4)
            row = rows[name] = measure(build(), shape, runs, Path(folder))
        before, after = row["before"], row["after"]
        files, run = (f"{before[key]} -> {after[key]}" for key in ("nodes", "nodes_run"))
        print(
            f"{name:34} {files:>10} {run:>10} {before['cpu_ms']['median']:10.2f} "
            f"{after['cpu_ms']['median']:8.2f} {row['time_ratio']['cpu']:6.2f} {row['memory_ratio']:7.2f}",
            flush=True,
        )
        versions = {package: version(package) for package in ("onnxruntime", "onnx", "torch")}
        write_json(arguments.results, {"versions": versions, "runs": arguments.runs, "cases": rows})
    print(json.dumps({"results": str(arguments.results)}))


if __name__ == "__main__":
    main()
