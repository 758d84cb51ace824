"""The engine from Python: a trained network and its data loaders in, a smaller network out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from evaluators.tasks.calibration_task import CalibrationTask
from evaluators.tasks.loader_task import BatchSize, LoaderTask, Loss, Score
from search.compressed import Compressed
from search.config.loading import configure
from search.export.saved_network import load
from search.pipeline.pipeline import run
from search.recipes import Effort, one_shot, retrained
from spaces.errors import SecateursError

EPOCHS, LR = 10, 0.02
"""Epochs of retraining and its highest learning rate, by default."""


def compress(
    model: nn.Module,
    train: Iterable[Any] | None = None,
    search: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    *,
    calibration: Iterable[Any] | None = None,
    target: Mapping[str, str],
    folder: str | Path,
    epochs: int | None = None,
    lr: float | None = None,
    effort: Effort | None = None,
    formats: Sequence[str] | None = None,
    baselines: bool | Sequence[str] | None = None,
    stages: Sequence[Mapping[str, Any]] | None = None,
    execution: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    score: Score | Mapping[str, Any] | None = None,
    score_name: str | None = None,
    batch_size: BatchSize | None = None,
    length: int | None = None,
    seed: int = 0,
    quiet: bool = False,
) -> Compressed:
    """Search for the channels to keep under a budget, retrain, and return the physically smaller network.

    With ``calibration`` in place of ``train`` and ``search`` nothing is trained and no label is read: channels are searched by
    how far outputs are from the dense network's, and the layers of the result are solved by least squares.

    The same call with the same folder goes on with a run that was stopped, and returns at once from one that is done.

    Args:
        model: The trained network; left as it is.
        train: Gives ``(inputs, targets)`` to train with, each any nesting of tensors: a data loader, or a list or anything else
            that can be iterated again, whose samples are held in memory.
        search: The same, to search and stop early with.
        test: The same, read once for the report; None for ``search``, or for what is held back of ``calibration``.
        calibration: Gives inputs alone, or ``(inputs, anything)``, some hundreds of samples of them: a data loader, or a list
            or anything else that can be iterated again. A quarter, at least 64 samples, is drawn by the seed and held back; the
            report has the result's agreement with the dense network on it, and the divergence. With a labelled ``test`` it has
            these and ``top1`` on that.
        target: Limits on costs, as in a configuration: ``{"macs": "<= 40%"}``; ``{}`` beside ``stages``, which have their own.
            Or ``{"top1": ">= -1.0 points"}``, what may be lost of a score before retraining: the smallest network that loses no
            more is found by an integer program, whatever the ``effort``.
        folder: The run folder, such as ``runs/mine``.
        epochs: Epochs of retraining; None for :data:`EPOCHS`.
        lr: Highest learning rate of retraining; None for :data:`LR`.
        effort: Size of the search: ``"quick"``, about 30 candidates, to see whether it is worth it; ``"normal"``, about 160,
            the default; ``"thorough"``, about 640, the genetic search's own default. With ``calibration`` 15, 60 or 200
            generations.
        formats: Files beside the weights in ``best/``, compared with the network: ``"onnx"`` and ``"torch_export"``; None for
            none.
        baselines: Put simpler ways to the same limit beside the result, retrained alike: the same share of every layer and the
            smallest weights of the whole network; with ``calibration`` the first alone. They are by default; False for none; or
            their names.
        stages: The pipeline, as in a configuration, without the options from ``epochs`` to ``baselines`` beside it; None for a
            genetic search over channels, reconstruction of its result by least squares, and retraining with distillation, for
            which ``target`` and these options count; with ``calibration`` for an evolution of levels.
        execution: Where trials run, as in a configuration; None for this process.
        loss: The loss, from outputs and targets to one value per sample or to their mean; None for cross-entropy; ``"model"``
            for a network that gives its losses itself, called with inputs and targets in training mode (torchvision's
            detectors).
        score: One value per sample, higher is better; or a metric of torchmetrics, ``{"name": ..., "arguments": {...},
            "direction": "maximize"}``; None for top-1 accuracy, or for the loss where one is passed, which is then what is
            minimized and shown.
        score_name: Name of the score; None for ``top1``.
        batch_size: Number of samples of a batch, from inputs and targets; None for the length of the first tensor.
        length: Tokens that MACs and other costs are counted at, for a network over tokens; None for those of a sample.
        seed: Seed of all randomness.
        quiet: Show no progress on the console. Without it, ``logging.getLogger("search").setLevel(logging.WARNING)`` shows
            warnings only; log.txt has every line, and handlers of a program's own get what its level lets through.

    Raises:
        SecateursError: The loaders, the network or the settings can't be used, or some of them would have no effect beside
            others; the message says what to change.
    """
    folder = Path(folder)
    size: Effort = "normal" if effort is None else effort
    beside = True if baselines is None else baselines
    if stages is not None:
        _refuse({"epochs": epochs, "lr": lr}, "stages= is the whole pipeline", "write it into its stage retrain or train")
        _refuse(
            {"target": dict(target) or None}, "stages= is the whole pipeline", "write it into its stage search, and give {}"
        )
        given = {"effort": effort, "formats": formats, "baselines": baselines}
        _refuse(given, "stages= is the whole pipeline", "write it into its stages search and export")
    task: LoaderTask
    if calibration is None:
        if train is None or search is None:
            raise SecateursError("expected train= and search= with labels, or calibration= with inputs alone; got neither")
        if isinstance(score, Mapping):
            _refuse({"score_name": score_name}, "a metric of torchmetrics has its own name", "leave it out")
        if loss is not None and score is None:
            _refuse({"score_name": score_name}, "the score is the loss that was passed", "leave it out, or give score=")
        task = LoaderTask(model, train, search, test, loss, score, score_name or "top1", batch_size)
        default = retrained(
            task, target, EPOCHS if epochs is None else epochs, LR if lr is None else lr, size, formats or (), beside
        )
    else:
        if train is not None or search is not None:
            raise SecateursError("expected train= and search=, or calibration= in place of both; got both kinds")
        without_labels = {"loss": loss, "score": score, "score_name": score_name, "epochs": epochs, "lr": lr}
        reason = "calibration= compares outputs with the dense network's and trains nothing"
        _refuse(without_labels, reason, "leave it out, or give train= and search= in place of calibration=")
        task = CalibrationTask(model, calibration, test, batch_size, seed)
        default = one_shot(target, size, formats or (), beside)
    task.cost_length = length
    settings = {"name": folder.name, "seed": seed, "stages": stages or default}
    config = configure({**settings, "execution": execution or {}}, task)
    report = run(config, folder, None if quiet else Console(force_jupyter=False))
    return Compressed(load(folder, task.build), report, folder)


def _refuse(settings: Mapping[str, Any], reason: str, remedy: str) -> None:
    """Raise SecateursError for settings that were given, but have no effect."""
    given = {name: value for name, value in settings.items() if value is not None}
    named = [f"{name}={value!r}" if isinstance(value, str | int | float) else f"{name}=" for name, value in given.items()]
    if named:
        raise SecateursError(f"{reason}: expected no {' and no '.join(named)}, which would have no effect; {remedy}")
