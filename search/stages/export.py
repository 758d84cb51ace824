"""Export: write the result in formats that other programs run."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from evaluators.onnx.quantized import deployment
from search.export.formats import write_formats
from search.export.sealed_file import FILES, is_whole
from search.export.settings import ExportSettings
from search.output.numbers import format_bytes
from search.run.best import WEIGHTS, Best
from search.run.network import Network
from search.run.stage_run import StageRun
from search.stages.base import Stage
from spaces.quantization.record import is_quantized


class Export(Stage[ExportSettings]):
    """Export to ONNX and torch.export in ``best/``, each file compared with the network."""

    Settings = ExportSettings
    last = True
    grows = ("formats",)

    def run(self, network: Network, run: StageRun) -> Network:
        """Write ``best/`` anew with the formats of the settings, and return ``network`` itself."""
        provenance = {"step": run.step, **(run.best.provenance() or {})}
        fixed: list[str] = []
        run.best.replace(
            network,
            provenance,
            extras=lambda folder: write_formats(folder, network.stored().model, run.task, self.settings, fixed.append),
        )
        for remark in fixed:
            run.notes["remark"] = f"{run.step}: {remark}"
            run.log.write(f"{run.label}: {remark}", logging.WARNING)
        paths = [run.best.path / name for name in (WEIGHTS, *(FILES[name] for name in self.settings.formats))]
        sizes = {path.name: path.stat().st_size for path in paths}
        run.log.write(f"{run.label}: {', '.join(f'{name} {format_bytes(size)}' for name, size in sizes.items())}")
        run.notes.update(formats=list(self.settings.formats), sealed=True, files=sizes)
        if "onnx" in self.settings.formats and is_quantized(network.model):
            run.notes["deployment"] = deployment(run.best.path / "model.onnx")
        return network

    def lost(self, best: Best, notes: Mapping[str, Any]) -> str:
        """Return the name of an exported file that is missing or damaged."""
        sealed = notes.get("sealed", False)
        paths = [best.path / FILES[name] for name in notes["formats"]]
        return next((path.name for path in paths if not (is_whole(path) if sealed else path.is_file())), "")
