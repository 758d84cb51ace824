"""Images per second of training and of evaluating: this version of the project against another one, in one run.

    git worktree add --detach ../before 3345b86~1
    chrt -f 10 taskset -c 1 python -m benchmarks.versions_throughput ../before --data FOLDER

The network and the data of ``configs/quickstart.yaml``, and ResNet-20 on Fashion-MNIST. A process per version, in one thread
each; they take turns, each first in every other one, and the other one waits. ``train`` is an epoch of the training loop,
measured on the search split at its end as always; ``evaluate`` is re-calibration of BatchNorm and the score on the search
split. Times are CPU time of the process; the ratio is the median over the turns of the other version's time over this one's:
above 1, this one is faster.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]


def work(data: str) -> None:
    """Do what is asked for on standard input, a name a line, and answer with images and CPU seconds."""
    import torch

    from evaluators.batch_norm import recalibrate
    from evaluators.task import Task
    from evaluators.tasks.classification import Classification
    from evaluators.tasks.data import DataSettings
    from evaluators.tasks.measure import measure
    from evaluators.tasks.model_factory import ModelSettings
    from evaluators.tasks.small_images import Digits, DigitsSettings, FashionMNIST
    from evaluators.training.loop import TrainingSettings, train

    torch.set_num_threads(1)
    cpu = torch.device("cpu")
    digits = Classification(ModelSettings("spaces.networks.digits_cnn"), Digits(DigitsSettings()))
    images = FashionMNIST(DataSettings(root=data, search_size=512, train_size=256))
    fashion = Classification(ModelSettings("spaces.networks.resnet20", {"in_channels": 1}), images)

    def training(task: Task, model: torch.nn.Module, batch: int) -> int:
        train(model, task, TrainingSettings(epochs=1, batch_size=batch), seed=0, device=cpu)
        return task.size("train") // batch * batch

    def evaluating(task: Task, model: torch.nn.Module, times: int) -> int:
        for _ in range(times):
            recalibrate(model, task.batches("train", 64, limit=256), task.forward, cpu)
            measure(model, task, "search", device=cpu)
        return times * (256 + task.size("search"))

    parts: dict[str, Callable[[], int]] = {}
    for name, task, batch, times in (("quickstart", digits, 64, 4), ("fashion_mnist", fashion, 64, 1)):
        model = task.reference_model()
        parts[f"{name} train"] = lambda task=task, model=model, batch=batch: training(task, model, batch)  # type: ignore[misc]
        parts[f"{name} evaluate"] = lambda task=task, model=model, times=times: evaluating(task, model, times)  # type: ignore[misc]
    print(json.dumps([*parts]), flush=True)
    for line in sys.stdin:
        began = time.process_time()
        count = parts[line.strip()]()
        print(json.dumps([count, time.process_time() - began]), flush=True)


class Side:
    """A version of the project in a process of its own.

    Args:
        folder: Its working tree.
        data: Folder that holds FashionMNIST/.
    """

    def __init__(self, folder: Path, data: str) -> None:
        places = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--work", "--data", data, str(folder)]
        self.process = subprocess.Popen(
            command, cwd=folder, env=places, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.parts: list[str] = self._answer()

    def seconds_per_image(self, part: str) -> float:
        """Return the CPU seconds of one image."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{part}\n")
        self.process.stdin.flush()
        count, seconds = self._answer()
        return float(seconds) / float(count)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


def compare(before: Path, data: str, turns: int) -> dict[str, Any]:
    """Return images per second of both versions, and their ratio, by part."""
    sides = [Side(folder, data) for folder in (before, HERE)]
    seconds: dict[str, list[list[float]]] = {part: [] for part in sides[0].parts}
    for turn in range(turns + 1):
        for part, rows in seconds.items():
            row = [0.0, 0.0]
            for place in (0, 1) if turn % 2 else (1, 0):
                row[place] = sides[place].seconds_per_image(part)
            rows.append(row)
            if turn == 0:
                rows.clear()  # The first turn warms up.
    for side in sides:
        side.close()
    found = {}
    for part, rows in seconds.items():
        old, new = (statistics.median(row[place] for row in rows) for place in (0, 1))
        ratios = sorted(row[0] / row[1] for row in rows)
        found[part] = {
            "before_images_per_second": round(1 / old, 1),
            "now_images_per_second": round(1 / new, 1),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_quartiles": [round(ratios[len(ratios) // 4], 4), round(ratios[-1 - len(ratios) // 4], 4)],
        }
    return found


def _commit(folder: Path) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), "rev-parse", "--short", "HEAD"], capture_output=True, text=True
    ).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="working tree of the other version")
    parser.add_argument("--data", default=os.environ.get("SECATEURS_DATA", "data"), help="folder that holds FashionMNIST/")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/versions_throughput.json"))
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.data)
        return
    found = compare(options.before.resolve(), options.data, options.turns)
    commits = {"before": _commit(options.before), "now": _commit(HERE)}
    options.results.write_text(json.dumps({"commits": commits, "turns": options.turns, **found}, indent=1) + "\n")
    print(json.dumps({"commits": commits, **found}, indent=1))


if __name__ == "__main__":
    main()
