"""TensorBoard: event files that ``tensorboard --logdir runs`` shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from search.config.document import to_yaml
from search.tracking.base import TrackedRun, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter


@dataclass(frozen=True)
class TensorBoardSettings:
    """Options of the tracker.

    Attributes:
        folder: Folder of the event files of all runs; each gets one of its name in it. Null for ``tensorboard`` in the run
            folder.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    folder: str | None = None


class TensorBoard(Tracker[TensorBoardSettings]):
    """Scalars by stage, over epochs and trials; the configuration and the result as text."""

    Settings = TensorBoardSettings

    def __init__(self, settings: TensorBoardSettings) -> None:
        """Keep the settings."""
        super().__init__(settings)
        self._writer: SummaryWriter | None = None

    def begin(self, run: TrackedRun) -> None:
        """Open another event file of the run's folder, in which a resumed run goes on."""
        from torch.utils.tensorboard.writer import SummaryWriter

        folder = run.folder / "tensorboard" if self.settings.folder is None else Path(self.settings.folder) / run.name
        self._writer = SummaryWriter(str(folder))
        self._text("configuration", to_yaml(dict(run.config)))

    def epoch(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each value, over epochs."""
        self._scalars(label, number, values)

    def trial(self, label: str, number: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each value, over trials."""
        self._scalars(label, number, values)

    def result(self, values: Mapping[str, float], files: Sequence[Path]) -> None:
        """Write a scalar for each number, and where the files are."""
        self._scalars("result", 0, values)
        self._text("files", "\n".join(map(str, files)))

    def close(self, failed: bool) -> None:
        """Close the file."""
        if self._writer is not None:
            self._writer.close()

    def _scalars(self, label: str, step: int, values: Mapping[str, float]) -> None:
        if self._writer is not None:
            for name, value in values.items():
                self._writer.add_scalar(f"{label}/{name}", value, step)
            self._writer.flush()

    def _text(self, tag: str, text: str) -> None:
        if self._writer is not None:
            self._writer.add_text(tag, f"```\n{text}\n```")
