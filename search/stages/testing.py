"""Contract of a stage, for this project's stages and for a person's own."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from evaluators.task import Task
from search.config.loading import Execution
from search.config.registries import EXECUTOR
from search.output.progress import Log
from search.run.best import Best
from search.run.network import Network
from search.run.run_storage import RunStorage
from search.run.stage_run import RESULT, DryRun, StageRun, Stopwatch
from search.stages.base import Stage
from search.study.storage import open_journal
from spaces.quantization.record import is_quantized


def check_stage_settings(stage_class: type[Stage[Any]]) -> None:
    """Check that the settings of a stage are a frozen dataclass that refuses unknown keys and documents its options.

    Raises:
        AssertionError: They are not; the message says in which point.
    """
    settings = stage_class.Settings
    assert dataclasses.is_dataclass(settings), "Settings: expected a dataclass"
    assert settings.__dataclass_params__.frozen, "Settings: expected a frozen dataclass"  # type: ignore[attr-defined]
    try:
        TypeAdapter(settings).validate_python({"no_such_option": 1})
    except ValidationError as error:
        refused = ("no_such_option",) in [found["loc"] for found in error.errors()]
    else:
        refused = False
    assert refused, 'Settings: expected __pydantic_config__ = {"extra": "forbid"}'
    documented = "\n".join(inspect.getdoc(base) or "" for base in settings.__mro__)
    missing = [field.name for field in dataclasses.fields(settings) if f"{field.name}: " not in documented]
    assert not missing, f"Settings: the Attributes leave out {missing}"
    assert stage_class.__doc__, "expected a docstring, whose first line `list` shows"


def check_stage(stage_class: type[Stage[Any]], options: Mapping[str, Any], task: Task, folder: Path) -> Network:
    """Check that a stage keeps the contract of :class:`.Stage` on the reference network of a task.

    Neither ``check`` nor ``run`` may change the network that enters; a second ``run`` in the same folder must give the
    same network; and what the stage says of itself (``removes``, ``quantizes``, ``last``) must be what it does.

    Args:
        stage_class: The stage.
        options: Its options, as in a configuration; cheap ones, since the stage is run twice.
        task: The task.
        folder: An empty folder, of the run that the stage is part of.

    Returns:
        The network that left the stage.

    Raises:
        AssertionError: It does not keep the contract; the message says in which point.
    """
    settings = TypeAdapter(stage_class.Settings).validate_python(options)
    network = Network(task.reference_model().eval())
    before, kept = _copied(network), network.transformations
    dry = DryRun(
        step="0-stage",
        seed=0,
        task=task,
        device=torch.device("cpu"),
        execution=_execution(),
        reference=network,
        log=Log(None, None),
    )
    stage_class(settings).check(network, dry)
    assert _same(before, _copied(network)), "check: expected a network that is left unchanged"
    folder.mkdir(parents=True, exist_ok=True)
    storage = open_journal(folder / "study.journal")
    first = _run(stage_class(settings), network, task, folder, storage)
    assert _same(before, _copied(network)), "run: expected a network that is left unchanged"
    assert network.transformations == kept, "run: expected transformations that are left unchanged"
    stage = stage_class(settings)
    second = _run(stage, network, task, folder, storage)
    assert _same(_copied(first), _copied(second)), "run: expected the same network from a second run in the same folder"
    assert stage.removes or _sizes(first) == _sizes(network), "removes: False, but the network has other sizes"
    assert stage.quantizes == is_quantized(first.model), f"quantizes: {stage.quantizes}, but the network says otherwise"
    assert not stage.last or _same(before, _copied(first)), "last: True, but the network was changed"
    assert stage.trains or stage.searches or stage.removes or _same(before, _copied(first)) or stage.for_inference, (
        "trains, searches, removes and for_inference: False, but the network was changed"
    )
    return first


def _run(stage: Stage[Any], network: Network, task: Task, folder: Path, storage: RunStorage) -> Network:
    own = folder / "checkpoints" / "0-stage" / RESULT
    own.mkdir(parents=True, exist_ok=True)
    run = StageRun(
        entered="",
        name="stage",
        step="0-stage",
        variant=RESULT,
        folder=own,
        seed=0,
        task=task,
        build_task=lambda: task,
        device=torch.device("cpu"),
        execution=_execution(),
        reference=network,
        best=Best(folder / "best", {}, {}),
        storage=storage,
        log=Log(None, None),
        stopwatch=Stopwatch(own / "seconds.json"),
    )
    return stage.run(network, run)


def _execution() -> Execution:
    return Execution(executor=EXECUTOR.parse("serial"))


def _copied(network: Network) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in network.tensors().items()}


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _sizes(network: Network) -> list[int]:
    """Return the number of elements of every parameter, in order: a network with merged activations may rename them."""
    return [parameter.numel() for parameter in network.model.parameters()]
