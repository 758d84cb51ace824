"""Sparse training: train with a sparsifier, which makes unimportant channels small or removes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from evaluators.tasks.observations import require_labels
from evaluators.training.loop import TrainingSettings
from evaluators.training.recipe import require_sparsifier
from search.config.registries import SPARSIFIER, SparsifierBlock
from search.run.network import Network
from search.run.stage_run import DENSE, DryRun, StageRun
from search.stages.base import Stage
from search.stages.removal import remove_channels
from search.stages.solving import solve_layers
from search.stages.training import train_network
from spaces.channels.surgery import Cut
from spaces.execution.batch import to_device
from spaces.reconstruction.record import RECONSTRUCTED
from spaces.reconstruction.settings import ReconstructionSettings


@dataclass(frozen=True, kw_only=True)
class SparseTrainingSettings(TrainingSettings):
    """Settings of the stage: those of training, the sparsifier, and the reconstruction.

    Attributes:
        sparsifier: Method that drives the network towards sparsity.
        reconstruct: How the layers that are left when channels are removed at the end are solved by least squares against those
            of the trained network, without labels (ours); false leaves them as they are, as the sources do. There is nothing
            to solve where the method promises that the removal changes no output.
    """

    sparsifier: SparsifierBlock
    reconstruct: ReconstructionSettings | Literal[False] = field(default_factory=ReconstructionSettings)


class SparseTraining(Stage[SparseTrainingSettings]):
    """Training with a sparsifier, and removal of the channels that it decided against.

    The dense baseline trains as long without it.
    """

    Settings = SparseTrainingSettings
    compresses = True
    trains = True
    purpose = "prepares a search"
    instead = "train"
    float_option = "sparsifier"

    @property
    def removes(self) -> bool:
        """True if the sparsifier decides against channels itself."""
        return bool(SPARSIFIER.find(self.settings.sparsifier.name).removes)

    @property
    def needs_search(self) -> bool:
        """True if the sparsifier removes nothing itself."""
        return not self.removes

    @property
    def trainings(self) -> Mapping[str, TrainingSettings]:
        """The one training."""
        return {"": self.settings}

    def check(self, network: Network, run: DryRun) -> Network:
        """Trace the network with the sparsifier, which raises where the two do not fit; return ``network`` itself."""
        sparsifier = SPARSIFIER.build(self.settings.sparsifier)
        model = network.copy().model.to(run.device)
        require_labels(sparsifier, run.task)
        require_sparsifier(self.settings, sparsifier)
        if sparsifier.remark:
            run.tell(f"note that {sparsifier.remark}")
        sparsifier.trace(model, to_device(run.task.traced_inputs(), run.device), run.task.forward)
        return network

    def depends_on(self, variant: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings; without the sparsifier for the dense baseline, which trains without it."""
        ignored = {"sparsifier", "reconstruct"} if variant == DENSE else set()
        return {name: value for name, value in settings.items() if name not in ignored}

    def run(self, network: Network, run: StageRun) -> Network:
        """Return a trained copy of ``network`` without the channels that the sparsifier decided against."""
        sparsifier = None if run.variant == DENSE else SPARSIFIER.build(self.settings.sparsifier)
        trained, history = train_network(network, run, self.settings, sparsifier=sparsifier)
        if sparsifier is None:
            return trained
        # Channels that went only at the end, for want of steps, had an effect in the network before.
        settings, uncut = self.settings.reconstruct, history.uncut
        solves = settings is not False and (uncut is not None or not sparsifier.lossless)
        removed = remove_channels(trained, sparsifier, run.task, complete=solves or history.best is not None)
        if removed is None:
            return trained
        smaller, run.notes["removed"] = removed
        if settings is False:
            return smaller
        if not solves:
            run.log.write(f"{run.label}: the removal changes no output, so that there is nothing to solve for")
            return smaller
        dense = trained.copy().model
        dense.load_state_dict(trained.model.state_dict() if uncut is None else uncut)
        solve_layers(dense, smaller.model, [Cut.from_json(smaller.transformations[-1])], run, settings, "network")
        return replace(smaller, transformations=(*smaller.transformations, RECONSTRUCTED))
