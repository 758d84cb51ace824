"""Retrain: training of the smaller network, with the baseline as its teacher where distillation is asked for."""

from __future__ import annotations

from search.stages.training import TrainingStage


class Retrain(TrainingStage):
    """Trains the network that a search left; with ``early_stop``, until the search split's score stops rising."""
