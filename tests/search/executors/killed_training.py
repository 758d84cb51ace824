"""A training by two workers on a Ray of its own, which tests kill: python -m tests.search.executors.killed_training FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from evaluators.tasks.settings import build_task
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.ranks import Ranks
from evaluators.training.settings import TrainingSettings
from search.config.loading import Execution
from search.config.registries import EXECUTOR
from search.executors.group_executor import training_group
from search.executors.group_training import PackedTraining, packed
from search.run.network import Network
from tests.search.executors.digits_search import TASK

SETTINGS = TrainingSettings(epochs=40, batch_size=50, optimizer=OptimizerSettings(lr=0.05), autocast="off")


def main(folder: Path) -> None:
    """Train to the end, or go on, and write the weights; a line on standard output for every epoch."""
    task = build_task(TASK)
    network = Network(task.reference_model())
    work = PackedTraining(packed(network), None, (), None, SETTINGS, 3, lambda: build_task(TASK), task.fingerprint, "cpu", 1)
    execution = Execution(
        executor=EXECUTOR.parse("serial"), training_workers=2, device="cpu", training_timeout=30.0, retries=1000
    )
    checkpoint = FileCheckpoint(folder / "state.safetensors")
    with training_group(execution, lambda line: print(line, flush=True)) as group:
        group.train(work, checkpoint, lambda record: print("epoch", record.epoch, flush=True))
    train(
        network.model,
        task,
        SETTINGS,
        seed=3,
        device=torch.device("cpu"),
        checkpoint=checkpoint,
        ranks=Ranks(0, 2, behind=True),
    )
    FileCheckpoint(folder / "end.safetensors").save(network.tensors(), {})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
