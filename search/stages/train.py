"""Train: ordinary training of the network as it is."""

from __future__ import annotations

from search.stages.training import TrainingStage


class Train(TrainingStage):
    """Trains the network that enters, keeping its structure."""
