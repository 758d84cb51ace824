"""Interface of a figure of the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

Tips = dict[str, list[str]]
"""Words for the marks of an artist, in the order of drawing, by its gid."""

SECTIONS = ("result", "search", "sensitivity", "kept", "bits", "retention", "training")
"""Sections of the page that have a place for figures."""


@dataclass(frozen=True)
class Drawing:
    """A figure as drawn.

    Attributes:
        canvas: The drawing.
        suffix: End of the file name, where a report has several drawings of the figure.
        stage: Name of the stage that the drawing is about, such as ``2-search``; empty for the whole run.
        tips: Words for the marks of artists, in the order of drawing, by the artist's gid: shown beside the pointer.
    """

    canvas: Canvas
    suffix: str = ""
    stage: str = ""
    tips: Tips = field(default_factory=dict)


class Figure(ABC):
    """A figure of the report, drawn from report.json alone, every part of which may be missing.

    Class attributes:
        name: File name without its ending, and the key in :data:`search.report.figures.FIGURES`.
        title: Title in words, for people who do not see the figure and for a section of its own.
        section: Section of the page that shows the figure, one of :data:`SECTIONS`; a figure without one gets a section of its
            own, with the title as heading.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    section: ClassVar[str] = ""

    @abstractmethod
    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether ``report`` has the data of at least one drawing."""

    @abstractmethod
    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the drawings; called with the style of all figures set, and only where the figure applies."""
