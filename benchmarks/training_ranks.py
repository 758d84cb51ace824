"""Two processes of one thread that train together, against one process of two threads, on the same batches.

Both take turns, a few steps each, so that a busy machine slows both; who has no turn waits without a core. Called by
:mod:`benchmarks.training`.
"""

from __future__ import annotations

import multiprocessing
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed

from evaluators.tasks.model_factory import ModelSettings
from evaluators.training.loop import TrainingSettings, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.ranks import Ranks

TURN = 2
"""Steps of a turn."""


def turns(model: ModelSettings, pixels: int, count: int) -> dict[str, list[tuple[float, float]]]:
    """Return (wall-clock seconds, CPU seconds of all processes) of every turn but the first, of both sides.

    Args:
        model: The network.
        pixels: Height and width of the images.
        count: Turns of each side, the first included.
    """
    context = multiprocessing.get_context("spawn")
    places = {"one": [(0, 1, 2)], "two": [(0, 2, 1), (1, 2, 1)]}
    sides: dict[str, list[Connection]] = {}
    processes = []
    with tempfile.TemporaryDirectory() as folder:
        for side, ranks in places.items():
            for rank, size, threads in ranks:
                here, there = context.Pipe()
                given = (there, model, pixels, count, rank, size, threads, str(Path(folder) / side))
                processes.append(context.Process(target=_train, args=given))
                processes[-1].start()
                sides.setdefault(side, []).append(here)
        found: dict[str, list[tuple[float, float]]] = {side: [] for side in sides}
        for _ in range(count):
            for side, pipes in sides.items():
                for pipe in pipes:
                    pipe.recv()
                began = time.perf_counter()
                for pipe in pipes:
                    pipe.send(None)
                used = [pipe.recv() for pipe in pipes]
                found[side].append((time.perf_counter() - began, sum(used)))
                for pipe in pipes:
                    pipe.send(None)
        for process in processes:
            process.join()
    return {side: times[1:] for side, times in found.items()}


def _train(
    pipe: Connection, model: ModelSettings, pixels: int, count: int, rank: int, size: int, threads: int, store: str
) -> None:
    from benchmarks.training import BATCH, OPTIMIZER, HeldTask

    torch.set_num_threads(threads)
    if size > 1:
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    task = HeldTask(model, pixels, count * TURN)
    settings = TrainingSettings(1, BATCH, OptimizerSettings("sgd", **OPTIMIZER), autocast="off")
    began = [0.0]

    def wait() -> None:
        pipe.send("ready")
        pipe.recv()
        began[0] = time.process_time()

    def on_step(done: int, total: int) -> None:
        if done % TURN == 0:
            pipe.send(time.process_time() - began[0])
            pipe.recv()
            if done < total:
                wait()

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = task.build()
    wait()
    train(network, task, settings, seed=0, device=torch.device("cpu"), on_step=on_step, ranks=Ranks(rank, size))
    if size > 1:
        torch.distributed.destroy_process_group()


def row(name: str, found: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Return the throughput of two processes as a share of that of one, by wall clock and by CPU time."""
    shares = {
        kind: [one[place] / two[place] for one, two in zip(found["one"], found["two"], strict=True)]
        for place, kind in enumerate(("wall", "cpu"))
    }
    return {"network": name, **{kind: statistics.quantiles(values, n=4) for kind, values in shares.items()}}
