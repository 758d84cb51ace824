"""Retention of task-relevant features: the share of the reference's class relevance that a network keeps, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from typing_extensions import TypedDict

from evaluators.task import Task
from evaluators.tasks.observations import observations
from search.run.network import Network
from spaces.channels.check import find_checked_groups
from spaces.channels.groups import ChannelGroups
from spaces.channels.subset import kept_channels, subset
from spaces.channels.surgery import Cut
from spaces.errors import UnsupportedModelError
from spaces.execution.batch import to_device
from spaces.importance.criterion import make_criterion, observe
from spaces.layers.split_attention import split_form

SAMPLES = 2048
"""Training samples that relevance is measured on, unaugmented."""


class Relevance(TypedDict):
    """The relevance of every channel of the reference, as it is stored."""

    values: list[Annotated[float, Field(ge=0.0)]]


Recall = Callable[[Callable[[], Relevance]], Relevance]
"""Function that returns what was stored, or measures it by the function that it is given."""


class Retention:
    """Measures the networks of a run against its reference.

    Relevance is the criterion ``task_relevance``, Fisher's ratio between the classes of a channel's pooled activation. That a
    pruned network is judged by the share it keeps is the method's (Gao, Wang, Jing, Yu, Scientia Sinica Informationis 2022).

    Args:
        reference: The network that entered the first compression stage.
        task: Data and labels.
        device: Device of the forward passes.
        recall: Returns the relevance of the reference's channels as it was stored, else as the function given to it measures
            it; None to measure it.
    """

    def __init__(self, reference: Network, task: Task, device: torch.device, recall: Recall | None = None) -> None:
        """Keep the reference; nothing is measured before :meth:`of`."""
        self._reference = reference
        self._task = task
        self._device = device
        self._recall: Recall = recall if recall is not None else (lambda measured: measured())

    def of(self, network: Network) -> dict[str, Any] | None:
        """Return the shares of relevance that ``network`` keeps; None for no removed channels, lost layers, no labels.

        Returns:
            ``chosen``, the share of the reference's relevance in the channels that were kept, and ``retained``, the relevance
            of the network as it is, trained again, over the reference's; for the whole network and, in ``layers``, with
            ``name``, ``channels`` and ``kept``, for every open group whose relevance is not 0.
        """
        cuts = [Cut.from_json(step) for step in _steps(self._changes(network)) if step["kind"] == "slice_channels"]
        if not cuts or not self._has_labels or self._groups is None:
            return None
        modules = {name for name, _ in network.model.named_modules()}
        if any(layer.name not in modules for layer in self._groups.layers):
            return None
        mask = kept_channels(self._groups, cuts)
        before = self._relevance
        after = np.zeros_like(before)
        after[mask] = self._measured(network, subset(self._groups, mask))
        layers = []
        for group in self._groups.groups:
            block = slice(group.offset, group.offset + group.size)
            row = {"name": group.name, "channels": group.size, "kept": int(mask[block].sum())}
            if before[block].sum() > 0:
                layers.append({**row, **_shares(before[block], after[block], mask[block])})
        return {**_shares(before, after, mask), "layers": layers}

    def _changes(self, network: Network) -> tuple[dict[str, Any], ...]:
        return network.transformations[len(self._reference.transformations) :]

    @cached_property
    def _has_labels(self) -> bool:
        _, targets = next(iter(self._task.batches("train", 2, limit=2)))
        return self._task.labels(targets) is not None

    @cached_property
    def _groups(self) -> ChannelGroups | None:
        model = self._reference.model.to(self._device).eval()
        try:
            return find_checked_groups(model, to_device(self._task.traced_inputs(), self._device), forward=self._task.forward)
        except UnsupportedModelError:
            return None

    @cached_property
    def _relevance(self) -> np.ndarray:
        groups = self._groups
        assert groups is not None  # noqa: S101 (for the type checker)

        def measured() -> Relevance:
            return Relevance(values=self._measured(self._reference, groups).tolist())

        values = np.asarray(self._recall(measured)["values"], dtype=np.float64)
        # What another version has stored may be of other groups.
        return values if len(values) == groups.width else np.asarray(measured()["values"], dtype=np.float64)

    def _measured(self, network: Network, groups: ChannelGroups) -> np.ndarray:
        """Return the relevance of every channel of ``network``, of shape ``(groups.width,)``."""
        criterion = make_criterion("task_relevance", split_form(network.model.to(self._device)), groups)
        observe(criterion, observations(self._task, self._device, limit=SAMPLES))
        values: np.ndarray = criterion.values().cpu().numpy()
        return values


def _steps(transformations: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """Yield all transformations one by one, those of sequences too."""
    for transformation in transformations:
        if transformation["kind"] == "sequence":
            yield from _steps(transformation["steps"])
        else:
            yield transformation


def _shares(before: np.ndarray, after: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    whole = float(before.sum())
    return {"chosen": float(before[mask].sum()) / whole, "retained": float(after.sum()) / whole} if whole > 0 else {}
