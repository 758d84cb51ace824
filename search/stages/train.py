"""Train: ordinary training of the whole network."""

from __future__ import annotations

from search.stages.training import TrainingStage


class Train(TrainingStage):
    """Training of the network that enters; its structure stays."""
