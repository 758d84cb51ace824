"""Fuse: merge connected activations of the result, for inference."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import ClassVar

from search.run.network import Network
from search.run.stage_run import StageRun
from search.stages.base import Stage
from spaces.execution.batch import to_device
from spaces.fusion.modules import fuse_activations

SAMPLES = 8
"""Samples of the search split on which the outputs are compared."""


@dataclass(frozen=True)
class FuseSettings:
    """Settings of the stage.

    Attributes:
        literal_types: Keep a PReLU where different types meet; otherwise a slope of 0 becomes ReLU and one of 1 goes.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    literal_types: bool = False


class Fuse(Stage[FuseSettings]):
    """Merging of activations that follow each other directly; behind the last training, since it is for inference.

    Candidates of a search are not merged: they are trained on, and their activations' slopes with them.
    """

    Settings = FuseSettings
    compresses = True
    for_inference = True
    purpose = "merges for inference only"

    def run(self, network: Network, run: StageRun) -> Network:
        """Return the network with merged activations, whose outputs were compared with the original's."""
        inputs, _ = next(iter(run.task.batches("search", SAMPLES, limit=SAMPLES)))
        model = network.model.to(run.device)
        fused = fuse_activations(model, to_device(inputs, run.device), run.task.forward, self.settings.literal_types)
        run.notes["activations"] = {**fused.report.to_json(), "max_abs_error": fused.error}
        for text in fused.report.lines():
            run.log.write(f"{run.label}: {text}", logging.DEBUG)
        run.log.write(f"{run.label}: {fused.report.removed} activations fewer")
        if fused.transformation is None:
            return network
        return Network(fused.model, (*network.transformations, fused.transformation))
