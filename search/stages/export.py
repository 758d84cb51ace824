"""Export: write the result in formats that other programs run."""

from __future__ import annotations

from evaluators.onnx.quantized import deployment
from search.export.formats import write_formats
from search.export.settings import ExportSettings
from search.run.network import Network
from search.run.stage_run import StageRun
from search.stages.base import Stage
from spaces.quantization.record import is_quantized


class Export(Stage[ExportSettings]):
    """Export to ONNX and torch.export in ``best/``, each file compared with the network."""

    Settings = ExportSettings
    last = True

    def run(self, network: Network, run: StageRun) -> Network:
        """Write ``best/`` anew with the formats of the settings, and return ``network`` itself."""
        provenance = {"step": run.step, **(run.best.provenance() or {})}
        run.best.replace(
            network, provenance, extras=lambda folder: write_formats(folder, network.stored().model, run.task, self.settings)
        )
        run.notes["formats"] = list(self.settings.formats)
        if "onnx" in self.settings.formats and is_quantized(network.model):
            run.notes["deployment"] = deployment(run.best.path / "model.onnx")
        return network
