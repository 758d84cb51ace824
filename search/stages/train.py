"""Train: ordinary training of the network as it is."""

from __future__ import annotations

from evaluators.training.loop import TrainingSettings
from search.network import Network
from search.run import StageRun
from search.stages.base import Stage
from search.stages.training import train_network


class Train(Stage):
    """Trains the network that enters, keeping its structure."""

    Settings = TrainingSettings
    trains = True

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    def run(self, network: Network, run: StageRun) -> Network:
        return train_network(network, run, self.settings)
