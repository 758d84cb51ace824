import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from evaluators.training.checkpoint import CheckpointError, FileCheckpoint
from evaluators.training.loop import train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import EarlyStopSettings, TrainingSettings
from evaluators.training.state import steps_of
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings
from tests.evaluators.small_task import digits_task
from tests.paths import REPOSITORY

CPU = torch.device("cpu")
SGD = TrainingSettings(
    epochs=4, batch_size=64, optimizer=OptimizerSettings(lr=0.1, nesterov=True), early_stop=EarlyStopSettings(patience=4)
)
ADAMW = TrainingSettings(epochs=4, batch_size=64, optimizer=OptimizerSettings(name="adamw", lr=3e-3), schedule="cosine")


class KilledError(Exception):
    pass


def run(settings, path=None, kill_after=None, seed=3, strength=1e-3):
    task = digits_task()
    model = task.reference_model()

    def on_epoch(record):
        if record.epoch == kill_after:
            raise KilledError

    history = train(
        model,
        task,
        settings,
        seed=seed,
        device=CPU,
        checkpoint=FileCheckpoint(path) if path else None,
        sparsifier=ScalingFactor(ScalingFactorSettings(strength=strength)),
        on_epoch=on_epoch,
    )
    return model.state_dict(), history


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def records(history):
    return [replace(record, seconds=0.0) for record in history.epochs]


@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path, settings):
    weights, history = run(settings)
    for kill_after in (1, 2, 4):
        path = tmp_path / f"{kill_after}.safetensors"
        with pytest.raises(KilledError):
            run(settings, path, kill_after)
        resumed, resumed_history = run(settings, path)
        assert same(weights, resumed)
        assert records(resumed_history) == records(history)


def test_a_kill_within_an_epoch_loses_that_epoch_only(tmp_path):
    weights, _ = run(SGD)
    task, path = digits_task(), tmp_path / "state.safetensors"

    def on_step(done, total):
        if done == 10:
            raise KilledError

    sparsifier = ScalingFactor(ScalingFactorSettings(strength=1e-3))
    with pytest.raises(KilledError):
        train(
            task.reference_model(),
            task,
            SGD,
            seed=3,
            device=CPU,
            checkpoint=FileCheckpoint(path),
            sparsifier=sparsifier,
            on_step=on_step,
        )
    assert len(FileCheckpoint(path).load()[1]["epochs"]) == 2
    assert same(weights, run(SGD, path)[0])


@pytest.mark.slow
def test_a_real_kill_goes_on_to_the_same_bits(tmp_path):
    path = tmp_path / "state.safetensors"
    script = (
        "import os, signal, torch; torch.set_num_threads(1)\n"
        "from tests.evaluators.training.test_resume import *\n"
        "save = FileCheckpoint.save\n"
        "def killing(self, tensors, data):\n"
        "    save(self, tensors, data)\n"
        "    if len(data['epochs']) == 2: os.kill(os.getpid(), signal.SIGKILL)\n"
        "FileCheckpoint.save = killing\n"
        f"run(SGD, {str(path)!r})\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        weights, _ = run(SGD)
        resumed, history = run(SGD, path)
    finally:
        torch.set_num_threads(threads)
    assert len(history.epochs) == 4
    assert same(weights, resumed)


def test_a_finished_training_is_not_trained_again(tmp_path):
    path = tmp_path / "state.safetensors"
    weights, _ = run(SGD, path)
    again, history = run(SGD, path, kill_after=4)  # on_epoch is not called any more
    assert same(weights, again)
    assert len(history.epochs) == 4


def test_an_early_stop_is_remembered(tmp_path):
    path = tmp_path / "state.safetensors"
    settings = replace(SGD, epochs=12, optimizer=OptimizerSettings(lr=1e-9, momentum=0.0), early_stop=EarlyStopSettings(1))
    weights, history = run(settings, path)
    assert 1 < len(history.epochs) < 12
    again, remembered = run(settings, path)
    assert same(weights, again)
    assert remembered.stopped_early == history.stopped_early != ""
    assert len(remembered.epochs) == len(history.epochs)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": replace(SGD, optimizer=OptimizerSettings(lr=0.2, nesterov=True))}, "training.optimizer.lr = 0.1 .*0.2"),
        ({"seed": 4}, "seed = 3 .*4"),
        ({"strength": 1e-2}, "sparsifier_settings.strength"),
    ],
)
def test_another_trainings_checkpoint_is_refused_naming_the_field(tmp_path, change, named):
    path = tmp_path / "state.safetensors"
    run(SGD, path)
    with pytest.raises(CheckpointError, match=named):
        run(**{"settings": SGD, "path": path, **change})


def test_another_models_checkpoint_is_refused(tmp_path):
    path = tmp_path / "state.safetensors"
    task, wider = digits_task(), digits_task(width=7)
    train(task.reference_model(), task, ADAMW, seed=0, device=CPU, checkpoint=FileCheckpoint(path))
    wider.__dict__["_fingerprint"] = task.fingerprint
    with pytest.raises(CheckpointError, match=r"model\.bn\.bias = \[6\] and now it is \[7\]"):
        train(wider.reference_model(), wider, ADAMW, seed=0, device=CPU, checkpoint=FileCheckpoint(path))


def test_file_checkpoint_keeps_tensors_data_and_nothing_else(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "deep" / "state.safetensors")
    assert checkpoint.load() is None
    tensors = {
        "a": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "b": torch.tensor(3.0),
        "c": torch.ones(2, dtype=torch.bool),
    }
    data = {"loss": 0.1 + 0.2, "list": [1, None, "x"]}
    checkpoint.save(tensors, {"old": True})
    checkpoint.save({**tensors, "tied": tensors["a"]}, data)
    loaded, found = checkpoint.load()
    assert found == data
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(loaded["tied"], tensors["a"])
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["state.safetensors"]


def test_a_failed_write_leaves_the_last_file(tmp_path, monkeypatch):
    checkpoint = FileCheckpoint(tmp_path / "state.safetensors")
    checkpoint.save({"a": torch.ones(1)}, {"epoch": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save({"a": torch.zeros(1)}, {"epoch": 2})
    assert checkpoint.load()[1] == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a readable training checkpoint"):
        FileCheckpoint(path).load()


@pytest.mark.parametrize("settings", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_a_training_in_parts_of_steps_comes_to_the_same_bits(tmp_path, settings):
    """Dropout draws from the global generator, inside epochs too; 7 and 12 steps are no ends of epochs, 10 are one."""
    task = digits_task(train_size=320)
    whole = task.reference_model()
    history = train(whole, task, settings, seed=3, device=CPU)
    for place, stop in enumerate((3, 7, 10, 12, None)):
        part = task.reference_model()
        found = train(part, task, settings, seed=3, device=CPU, checkpoint=FileCheckpoint(tmp_path / "one"), until_step=stop)
        assert len(found.epochs) == (0, 1, 2, 2, 4)[place]
        tensors, data = FileCheckpoint(tmp_path / "one").load()
        assert steps_of(data, tensors, 5) == found.steps(5) == (stop or 20)
    assert same(whole.state_dict(), part.state_dict())
    assert records(found) == records(history)
