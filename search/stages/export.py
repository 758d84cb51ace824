"""Export: the result in the forms that other programs run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from evaluators.onnx.quantized import deployment
from search.export.saved_network import write_formats
from search.run.network import Network
from search.run.stage_run import StageRun
from search.stages.base import Stage
from spaces.quantization.record import is_quantized


@dataclass(frozen=True)
class ExportSettings:
    """Settings of the stage.

    Attributes:
        formats: What is written beside the weights: ``onnx`` (model.onnx) and ``torch_export`` (model.pt2).
        tolerance: Largest absolute difference allowed between the exported file's outputs and the network's.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    formats: tuple[Literal["onnx", "torch_export"], ...] = ("onnx", "torch_export")
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        if self.tolerance <= 0:
            raise ValueError(f"tolerance must be above 0, got {self.tolerance}")


class Export(Stage):
    """Writes the network into ``best/`` in other formats, each compared with the network."""

    Settings = ExportSettings

    def __init__(self, settings: ExportSettings) -> None:
        self.settings = settings

    def run(self, network: Network, run: StageRun) -> Network:
        provenance = {"step": run.step, **(run.best.provenance() or {})}
        run.best.replace(
            network, provenance, extras=lambda folder: write_formats(folder, network.stored().model, run.task, self.settings)
        )
        run.notes["formats"] = list(self.settings.formats)
        if "onnx" in self.settings.formats and is_quantized(network.model):
            run.notes["deployment"] = deployment(run.best.path / "model.onnx")
        return network
