"""Settings of the export stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class ExportSettings:
    """Settings of the stage.

    Attributes:
        formats: Files written beside the weights: ``onnx`` (model.onnx) and ``torch_export`` (model.pt2).
        tolerance: Largest absolute difference allowed between the exported file's outputs and the network's.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    formats: tuple[Literal["onnx", "torch_export"], ...] = ("onnx", "torch_export")
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        """Raise ValueError unless the tolerance is above 0."""
        if self.tolerance <= 0:
            raise ValueError(f"tolerance: expected a number above 0, got {self.tolerance}")
