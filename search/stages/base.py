"""The stage: one step of a pipeline, a network in and a network out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from search.config.registries import STAGE
from search.config.stage_kind import StageKind
from search.run.network import Network

if TYPE_CHECKING:
    from evaluators.training.settings import TrainingSettings
    from search.config.loading import Config
    from search.run.best import Best
    from search.run.stage_run import DryRun, StageRun

S = TypeVar("S")


class Stage(StageKind[S], ABC):
    """One step of a pipeline, made from its frozen ``Settings``, kept as ``settings``; any other state is a cache.

    The class attributes and properties of :class:`.StageKind` say what the stage is to the others and to the pipeline.
    """

    @abstractmethod
    def run(self, network: Network, run: StageRun) -> Network:
        """Return the network that leaves the stage; ``network`` is left unchanged.

        A stage that was cut off goes on from its files in ``run.folder`` and ends as if it had not been.
        """

    def depends_on(self, variant: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the part of the stage's settings (plain data) that decides the network of ``variant``."""
        return settings

    def check(self, network: Network, run: DryRun) -> Network:
        """Check that the stage can work on ``network``, before anything is written; tell ``run`` of what was found right.

        Returns:
            A network of about the structure that will leave the stage; ``network`` itself where that is not known.

        Raises:
            SecateursError: The stage cannot work on this network.
        """
        return network

    def lost(self, best: Best, notes: Mapping[str, Any]) -> str:
        """Return the name of a file in ``best/`` that the stage left, and that is missing or damaged; empty if none is.

        Args:
            best: The folder.
            notes: The notes that the stage left, when it was done.
        """
        return ""


@dataclass(frozen=True)
class PlacedStage:
    """A stage of a configuration.

    Attributes:
        index: Its place in the pipeline, from 0.
        name: Its name in the registry.
        stage: The stage.
    """

    index: int
    name: str
    stage: Stage[Any]

    @property
    def step(self) -> str:
        """Place and name, such as ``2-search``: the name of its folder."""
        return f"{self.index}-{self.name}"

    @property
    def path(self) -> str:
        """Place in the configuration, such as ``stages.2.search``, for messages."""
        return f"stages.{self.index}.{self.name}"


def following_training(stages: Sequence[PlacedStage], index: int) -> TrainingSettings | None:
    """Return the training of the stage behind a place, where that goes on with a training begun; else None."""
    behind = [placed.stage for placed in stages if placed.index == index + 1 and placed.stage.goes_on]
    return behind[0].trainings.get("") if behind else None


def placed_stages(config: Config) -> list[PlacedStage]:
    """Return the stages of a configuration, in order."""
    return [PlacedStage(index, block.name, STAGE.build(block)) for index, block in enumerate(config.stages)]
