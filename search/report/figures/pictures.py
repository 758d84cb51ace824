"""The pictures of a report, drawn once for the page (SVG that follows its colours) and once for other uses (PNG)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from search.report.figures.layers import bits_per_layer, channels_per_layer, relevance_kept
from search.report.figures.participation import participation_figure
from search.report.figures.result import result_figure, test_points
from search.report.figures.searches import front_figure, progress_figure
from search.report.figures.sensitivity import sensitivity_figure
from search.report.figures.style import (
    BLUE,
    CSS_VARIABLES,
    GRID,
    INK,
    MUTED,
    STYLE,
    new_figure,
)
from search.report.view import SearchView, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A drawn figure.

    Attributes:
        name: File name without its ending.
        title: What it shows.
        svg: For the page, with the page's colour variables.
        png: For ``figures/``.
    """

    name: str
    title: str
    svg: str
    png: bytes


def draw(report: Mapping[str, Any], searches: Sequence[SearchView]) -> list[Picture]:
    """Return every picture for which ``report`` has the data."""
    import matplotlib as mpl

    pictures: list[Picture] = []
    with mpl.rc_context(STYLE):
        for index, view in enumerate(searches):
            suffix = "" if index + 1 == len(searches) else f"_{view.stage}"
            pictures.extend(
                _picture(f"front{suffix}", "The search", front_figure(view, report)) for _ in range(bool(view.points))
            )
            pictures.extend(
                _picture(f"progress{suffix}", "Progress", progress_figure(view)) for _ in range(len(view.points) > 1)
            )
        test = test_points(report)
        if len(test) > 1:
            pictures.append(
                _picture("result", "After retraining, on the test split", result_figure(test, report.get("test_samples") or 0))
            )
        for entry in report.get("searches") or []:
            if (entry.get("sensitivity") or {}).get("rows"):
                name = f"sensitivity_{entry.get('stage', 'search')}"
                pictures.append(_picture(name, "Sensitivity", sensitivity_figure(entry["sensitivity"], new_figure())))
        layers = report.get("layers") or []
        if layers:
            pictures.append(_picture("layers", "Channels per layer", channels_per_layer(layers)))
        retention = {role: found for role, found in (report.get("retention") or {}).items() if found.get("layers")}
        if "result" in retention:
            pictures.append(_picture("retention", "Task-relevant features kept", relevance_kept(retention)))
        for index, record in enumerate(report.get("participation") or []):
            pictures.append(_picture(f"participation{index or ''}", "Participation over time", _participation(record)))
        bits = report.get("bits") or []
        if bits:
            pictures.append(_picture("bits", "Bits per layer", bits_per_layer(bits)))
        histories = [entry for entry in report.get("histories") or [] if entry.get("epochs")]
        if histories:
            pictures.append(_picture("training", "Training", _training(histories)))
    return pictures


def _picture(name: str, title: str, figure: Figure) -> Picture:
    import matplotlib as mpl

    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(png, format="png", dpi=120)
    figure.set_layout_engine("none")
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = svg.getvalue()
    text = text[text.index("<svg") :]
    for color, variable in CSS_VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    return Picture(name, title, text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1), png.getvalue())


def _participation(record: Mapping[str, Any]) -> Figure:
    figure = new_figure(height=1.2 + 1.6 * math.ceil(min(len(record["layers"]), 16) / 4))
    participation_figure(figure, record, BLUE, INK)
    return figure


def _training(histories: Sequence[Mapping[str, Any]]) -> Figure:
    figure = new_figure(height=3.8)
    left, right = figure.subplots(1, 2)
    start = 0
    edges = [0]
    series: dict[str, list[tuple[int, float]]] = {"loss": [], "search_loss": [], "search_score": []}
    for history in histories:
        for index, epoch in enumerate(history["epochs"]):
            for key, values in series.items():
                value = epoch.get(key)
                if isinstance(value, int | float) and math.isfinite(value):
                    values.append((start + index + 1, float(value)))
        start += len(history["epochs"])
        edges.append(start)
    for axes in (left, right):
        axes.set_xlabel("epoch, all stages in a row")
        for index, (first, last) in enumerate(pairwise(edges)):
            if index % 2:
                axes.axvspan(first + 0.5, last + 0.5, color=GRID, alpha=0.4, linewidth=0)
            axes.annotate(
                words(str(histories[index].get("stage", ""))),
                ((first + last + 1) / 2, 1.0),
                (0, 2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=MUTED,
            )
    for key, color, label in (("loss", MUTED, "train split"), ("search_loss", BLUE, "search split")):
        left.plot(*zip(*series[key], strict=True) if series[key] else ([], []), color=color, marker=".", label=label)
    left.set_ylabel("loss")
    left.legend(loc="upper right")
    scores = series["search_score"]
    share = all(0 <= value <= 1 for _, value in scores)
    right.plot([x for x, _ in scores], [y * (100 if share else 1) for _, y in scores], color=BLUE, marker=".")
    right.set_ylabel("score, search split" + (" [%]" if share else ""))
    ending = f": {scores[-1][1] * (100 if share else 1):.4g}{' %' if share else ''} at the end" if scores else ""
    figure.suptitle(f"{start} epochs of training{ending}", x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure
