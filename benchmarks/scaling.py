"""How the search scales with workers: real evaluations, evaluations that only sleep, and evaluations that do nothing.

    python -m benchmarks.scaling [--data FOLDER] [--parts real sleep record]

``real``: ResNet-20 on Fashion-MNIST, random channel masks, scored with BatchNorm re-calibration, on 1 and on 2 workers in
turn; efficiency is the speed-up divided by the workers. It wants two free cores. Beside it the same evaluations in one and
two plain processes without Ray: what the machine itself loses when both cores work. ``sleep``: evaluations of two seconds in 1
to 64 workers that don't import torch; efficiency is the seconds slept per worker and second. ``record``: evaluations that
take no time, in this process and on workers; trials recorded per second, and what of the driver's CPU each takes. All go
through the loop that searches go through, and are recorded in the default storage; workers are started, and have evaluated
something, before the clock is. Every part prints a table and writes its numbers to ``--results`` when it is done.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from benchmarks.plain_processes import seconds_in
from benchmarks.sleeping import Sleeping
from benchmarks.storage import Masks, problem_of
from evaluators.accuracy import Accuracy, AccuracySettings
from evaluators.cost import Cost, CostSettings
from evaluators.tasks.data import DataSettings
from evaluators.tasks.model_factory import ModelSettings
from evaluators.tasks.settings import NamedData, TaskSettings, build_task
from search.algorithms.base import Algorithm
from search.executors.base import Evaluate, Executor, Job, Workload
from search.executors.ray import RayExecutor
from search.executors.ray_settings import RaySettings
from search.executors.serial import SerialExecutor, SerialSettings
from search.executors.shipment import ship
from search.executors.trial_checkpoints import TrialCheckpoints
from search.executors.trial_evaluator import TrialEvaluator
from search.output.progress import Log
from search.run.stage_run import Stopwatch, device_of
from search.stages.search.batch_loop import BatchLoop
from search.stages.search.search_note import SearchNote
from search.stages.search.settings import BudgetSettings
from search.study.problem import Objective, Problem
from search.study.storage import JOURNAL, open_journal
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.channel_mask import ChannelMask

RESULTS = Path(__file__).parent / "results" / "scaling.json"
LAYERS = 30
Row = dict[str, Any]


class Listed(Algorithm[Any]):
    """Proposes so many random candidates, of which none depends on another."""

    def __init__(self, problem: Problem, count: int) -> None:
        rng = np.random.default_rng(0)
        self._waiting = [Proposal(problem.space.sample(rng)) for _ in range(count)]
        self._left = count

    def ask(self, limit: int) -> list[Proposal]:
        now, self._waiting = self._waiting[:limit], self._waiting[limit:]
        return now

    def tell(self, trial: Trial) -> None:
        self._left -= 1

    @property
    def finished(self) -> bool:
        return self._left == 0

    @property
    def budget(self) -> int | None:
        return None


def timed(executor: Executor[Any], problem: Problem, count: int, batch: int) -> Row:
    """Return how long a search of ``count`` trials took, after warm-up, with all trials recorded."""
    with tempfile.TemporaryDirectory() as name, Log(None, None).bar("", None) as bar:
        folder = Path(name)

        def search(algorithm: Algorithm[Any], study: str) -> list[Trial]:
            return BatchLoop(
                algorithm=algorithm,
                study=Study(open_journal(folder / JOURNAL), study, problem, {"macs": 1e3}),
                executor=executor,
                checkpoints=TrialCheckpoints(folder / "trials"),
                budget=BudgetSettings(),
                batch=batch,
                stopwatch=Stopwatch(folder / f"{study}.json"),
                bar=bar,
                note=SearchNote(problem),
                log=lambda text, level: None,
                on_batch=lambda trials: None,
            ).run()

        wanted = executor.free if isinstance(executor, RayExecutor) else 1
        _warm_up(executor, lambda: search(Listed(problem, wanted), f"warm-up {time.monotonic_ns()}"), wanted)
        algorithm = Listed(problem, count)
        wall, cpu = time.perf_counter(), time.process_time()
        trials = search(algorithm, "measured")
        seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    failed = next((trial.error for trial in trials if trial.error), "")
    if failed or len(trials) != count:
        raise RuntimeError(failed or f"expected {count} trials, got {len(trials)}")
    return {
        "workers": wanted,
        "trials": count,
        "seconds": seconds,
        "driver_cpu_ms_per_trial": cpu_seconds / count * 1e3,
        "workers_with_torch": any(trial.metrics.get("torch") for trial in trials),
    }


def _warm_up(executor: Executor[Any], search: Callable[[], list[Trial]], wanted: int) -> None:
    """Search until all workers are there, and once more."""
    deadline = time.monotonic() + 300 + 10 * wanted
    search()
    while executor.workers < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {executor.workers} of {wanted} workers could be had")
        search()
    search()


def on_ray(pack: Callable[[str], Callable[[], Evaluate]], evaluate: Evaluate, workers: int, cpus: float) -> RayExecutor:
    """Return an executor with so many workers."""
    return RayExecutor(Workload(evaluate, pack, device="cpu"), RaySettings(workers=workers, cpus_per_trial=cpus))


def real(data: str, evaluations: int, repeats: int, images: int) -> Row:
    """Return seconds for the same real evaluations on one worker and on two, in turn."""
    settings = TaskSettings(
        ModelSettings("spaces.networks.resnet20", {"in_channels": 1, "classes": 10}),
        NamedData("fashion_mnist", DataSettings(root=data, search_size=images, train_size=2000)),
    )
    task = build_task(settings)
    model = task.reference_model().eval()
    space = ChannelMask(model, task.example_inputs(), forward=task.forward)
    evaluators = [Accuracy(AccuracySettings(batch_norm_batches=2)), Cost(CostSettings())]
    evaluator = TrialEvaluator(space, model, task, evaluators, 0, device_of("cpu"))
    problem = Problem(space, [Objective("top1", "maximize"), Objective("macs", "minimize")], [], {})

    def pack(device: str) -> Callable[[], Evaluate]:
        return ship(evaluator, [], partial(build_task, settings), 1, device)

    jobs = [Job(number, proposal) for number, proposal in enumerate(Listed(problem, evaluations).ask(evaluations))]
    rows: list[Row] = []
    for repeat in range(repeats):
        for workers in (1, 2) if repeat % 2 == 0 else (2, 1):
            executor = on_ray(pack, evaluator.evaluate, workers, 1.0)
            rows.append(timed(executor, problem, evaluations, evaluations))
            executor.close()
            rows[-1]["plain_seconds"] = seconds_in(workers, pack("cpu"), jobs)
            rates = [evaluations / rows[-1][name] for name in ("seconds", "plain_seconds")]
            print(f"{workers} workers: {rates[0]:.2f} evaluations/s; plain processes {rates[1]:.2f}", flush=True)
    efficiency = _efficiency("workers on Ray", "seconds", rows)
    plain = _efficiency("plain processes", "plain_seconds", rows)
    return {"network": "resnet20", "images": images, "rows": rows, "efficiency": efficiency, "plain_efficiency": plain}


def _efficiency(label: str, name: str, rows: list[Row]) -> float:
    """Return the speed-up of two divided by two, in the median of the repeats."""
    one, two = ([row[name] for row in rows if row["workers"] == workers] for workers in (1, 2))
    found = [first / (2 * second) for first, second in zip(one, two, strict=True)]
    print(f"efficiency of 2 {label}: {statistics.median(found):.3f} (of {', '.join(f'{e:.3f}' for e in found)})")
    return float(statistics.median(found))


def sleep(most: int, seconds: float, rounds: int) -> Row:
    """Return seconds of sleeping per worker and second, for 1 to ``most`` workers."""
    problem = problem_of(Masks(LAYERS))
    evaluation = Sleeping(seconds)
    rows: list[Row] = []
    for workers in [2**power for power in range(int(math.log2(most)) + 1)]:
        executor = on_ray(lambda device: evaluation, evaluation.evaluate, workers, 0.01)
        row = timed(executor, problem, rounds * workers, rounds * workers)
        executor.close()
        rows.append({**row, "efficiency": rounds * seconds / row["seconds"]})
        print(f"{workers:3} workers: efficiency {rows[-1]['efficiency']:.3f}", flush=True)
    return {"seconds": seconds, "rounds": rounds, "layers": LAYERS, "rows": rows}


def record(trials: int, batch: int) -> Row:
    """Return the trials per second that are evaluated in no time and recorded, in this process and on workers."""
    problem = problem_of(Masks(LAYERS))
    nothing = Sleeping(0.0)
    rows: list[Row] = []
    for workers in (0, 1, 2, 4):
        if workers:
            executor: Executor[Any] = on_ray(lambda device: nothing, nothing.evaluate, workers, 0.01)
        else:
            executor = SerialExecutor(Workload(nothing.evaluate, lambda device: nothing), SerialSettings())
        row = timed(executor, problem, trials, batch)
        executor.close()
        label = f"Ray, {workers} workers" if workers else "serial"
        rows.append({**row, "executor": label, "per_second": trials / row["seconds"]})
        milliseconds = row["driver_cpu_ms_per_trial"]
        print(f"{label:15} {rows[-1]['per_second']:7.0f} trials/s, driver {milliseconds:.2f} ms of CPU each", flush=True)
    return {"batch": batch, "layers": LAYERS, "rows": rows}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("real", "sleep", "record"), default=["real", "sleep", "record"])
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds Fashion-MNIST")
    parser.add_argument("--evaluations", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--most-workers", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="evaluations per sleeping worker")
    parser.add_argument("--sleep-seconds", type=float, default=2.0)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    parts: dict[str, Callable[[], Row]] = {
        "real": lambda: real(given.data, given.evaluations, given.repeats, given.images),
        "sleep": lambda: sleep(given.most_workers, given.sleep_seconds, given.rounds),
        "record": lambda: record(given.trials, given.batch),
    }
    for name in given.parts:
        print(f"== {name}", flush=True)
        found = {**parts[name](), "cores": len(os.sched_getaffinity(0))}
        known = json.loads(given.results.read_text()) if given.results.exists() else {}
        given.results.write_text(json.dumps({**known, name: found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
