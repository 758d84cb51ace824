"""Build the space of a search, once for one network, and check that the search can use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluators.base import Evaluator
from evaluators.tasks.observations import observations
from search.config.block import Block
from search.config.registries import SPACE
from search.run.network import Network
from search.run.stage_run import StageContext
from spaces.base import SearchSpace
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.execution.batch import to_device

CALIBRATION_SAMPLES = 2048
"""Most samples, unaugmented, that a space may calibrate on, and training samples that importance may be learnt from."""


def space_of(network: Network, run: StageContext, block: Block) -> SearchSpace[Any]:
    """Return the space that ``block`` describes over ``network``, calibrated, and taught where it learns.

    The space is built once for one network: checking a configuration and searching it take the same.

    Raises:
        UnsupportedModelError: Nothing in the network is open.
    """
    key = ("space", network.digest(), str(run.device), block.name, repr(block.settings))
    return run.built.get(run.step, key, lambda: _build(network, run, block))


def _build(network: Network, run: StageContext, block: Block) -> SearchSpace[Any]:
    task, model = run.task, network.model.to(run.device).eval()
    inputs = to_device(task.traced_inputs(), run.device)
    found = task.batches(task.calibration_split, 128, limit=CALIBRATION_SAMPLES)
    batches = (to_device(batch, run.device) for batch, _ in found)
    space: SearchSpace[Any] = SPACE.find(block.name)(model, inputs, block.settings, forward=task.forward, batches=batches)
    if space.learns:
        space.learn(observations(task, run.device, limit=CALIBRATION_SAMPLES))
    if not space.domains:
        raise UnsupportedModelError("nothing in the model is open to the search; `inspect` says why")
    return space


def require_fitting(
    space: SearchSpace[Any], name: str, objectives: Sequence[str], evaluators: Sequence[Evaluator], trains: bool
) -> None:
    """Raise if the search can't work over its space.

    Args:
        space: The space.
        name: Its name in the registry.
        objectives: Metrics that are sought, the primary one first.
        evaluators: Evaluators of candidates.
        trains: Whether there are settings to train candidates with.

    Raises:
        SecateursError: The space trains its candidates and there are no settings for that, the first objective is the same for
            all candidates, or an evaluator is to tell what the space does not change or does not know.
    """
    if not trains and space.sparsifier(space.sample(np.random.default_rng(0))) is not None:
        raise SecateursError(f"the space {name} trains its candidates: expected search.training: {{epochs: ...}}, got none")
    require_informative_objective(space, objectives)
    if any(evaluator.needs_quantizers for evaluator in evaluators) and not space.quantizers:
        raise SecateursError(
            f"evaluate.omega is what rounding does to the loss, and the space {name} rounds nothing; leave it out"
        )


def require_informative_objective(space: SearchSpace[Any], objectives: Sequence[str]) -> None:
    """Raise if the first objective is the same for all candidates that differ only in removed channels.

    Raises:
        SecateursError: The first objective is Omega, over a space that removes channels.
    """
    if space.channels is not None and objectives[0] == "omega":
        raise SecateursError(
            "search.objectives puts omega first, which tells what bits cost and nothing of removed channels: expected a score "
            "or loss as the first objective over a space with channels, such as {top1: maximize}"
        )


def describe_frozen(space: SearchSpace[Any]) -> list[Mapping[str, Any]]:
    """Return the report's row of every part of the network that the space does not touch, with the reason."""
    return [{"name": p.name, "size": p.size, "reason": p.reason, "macs_share": p.macs_share} for p in space.frozen]
