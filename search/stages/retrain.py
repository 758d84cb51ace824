"""Retrain: training of the smaller network, with the baseline as its teacher where distillation is asked for."""

from __future__ import annotations

from evaluators.training.loop import TrainingSettings
from search.network import Network
from search.run import StageRun
from search.stages.base import Stage
from search.stages.training import train_network


class Retrain(Stage):
    """Trains the network that a search left; with ``early_stop``, until the search split's score stops rising."""

    Settings = TrainingSettings
    trains = True

    def __init__(self, settings: TrainingSettings) -> None:
        self.settings = settings

    def run(self, network: Network, run: StageRun) -> Network:
        return train_network(network, run, self.settings)
