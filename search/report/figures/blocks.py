"""The picture of the network by blocks: the cost of every block before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evaluators.metrics import METRICS
from search.output.numbers import format_percent
from search.report.figures.base import Drawing, Figure, Tips
from search.report.figures.style import BLUE, GRID, INK, PAPER, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_BLOCKS = 14
"""Blocks that are drawn: modules are put together until there are no more."""
FLOAT_BYTES = 4
_LETTERS = 85
"""Letters that fit on a whole strip."""

Block = tuple[str, float, float]
"""Name, and cost before and after."""


class Blocks(Figure):
    """The cost of every block of the network, before and after, in the order of the forward pass."""

    name = "blocks"
    title = "The network by blocks, before and after"
    section = "kept"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether the cost of a module changed."""
        return bool(list(_strips(report)))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing: a pair of strips per cost that changed."""
        strips = list(_strips(report))
        figure = new_figure(height=0.4 + 2.1 * len(strips))
        tips: Tips = {}
        for axes, (metric, modules) in zip(figure.subplots(len(strips), 1, squeeze=False)[:, 0], strips, strict=True):
            _draw_strips(axes, metric, blocks(modules), tips)
        yield Drawing(figure, tips=tips)


def _strips(report: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Block]]]:
    """Yield the name of every cost that is known by module and changed, with the modules."""
    macs = [(str(entry["name"]), entry["before"], entry["after"]) for entry in report.get("modules") or []]
    if any(before != after for _, before, after in macs):
        yield "macs", macs
    rows = [entry for entry in report.get("bits") or [] if entry.get("weights") and entry.get("weight_bits")]
    if rows and not report.get("layers"):
        yield (
            "size_bytes",
            [(row["name"], row["weights"] * FLOAT_BYTES, row["weights"] * row["weight_bits"] / 8) for row in rows],
        )


def blocks(modules: Sequence[Block]) -> list[Block]:
    """Return modules put together into at most :data:`MOST_BLOCKS` blocks: by the first parts of their names, then in a row."""
    depth = max(len(name.split(".")) for name, _, _ in modules)
    found = _grouped(modules, depth)
    while len(found) > MOST_BLOCKS and depth > 1:
        depth -= 1
        found = _grouped(modules, depth)
    while len(found) > MOST_BLOCKS:
        found = [_joined(found[place : place + 2]) for place in range(0, len(found), 2)]
    return found


def _grouped(modules: Sequence[Block], depth: int) -> list[Block]:
    sums: dict[str, list[float]] = {}
    for name, before, after in modules:
        total = sums.setdefault(".".join(name.split(".")[:depth]), [0.0, 0.0])
        total[0] += before
        total[1] += after
    return [(name or "the network itself", before, after) for name, (before, after) in sums.items()]


def _joined(row: Sequence[Block]) -> Block:
    name = row[0][0] if len(row) == 1 else f"{row[0][0].split(' to ')[0]} to {row[-1][0].split(' to ')[-1]}"
    return name, sum(before for _, before, _ in row), sum(after for _, _, after in row)


def _draw_strips(axes: Axes, name: str, found: Sequence[Block], tips: Tips) -> None:
    """Draw a strip of all blocks before, one after on the same scale below, and what became of each between them."""
    from matplotlib.patches import Polygon

    metric = METRICS[name]
    whole = sum(before for _, before, _ in found) or 1.0
    left = [0.0, 0.0]
    for place, (block, before, after) in enumerate(found):
        widths = [before / whole, after / whole]
        alpha = 0.95 if place % 2 else 0.7
        gid = f"{name}-{place}"
        tips[gid] = [f"{block}: {metric.label} {metric.text(before)} before, {metric.text(after)} after"]
        for side, bottom in ((0, 0.62), (1, 0.0)):
            corners = [(left[side], bottom), (left[side] + widths[side], bottom)]
            corners += [(x, bottom + 0.38) for x, _ in reversed(corners)]
            axes.add_patch(
                Polygon(corners, facecolor=BLUE, edgecolor=PAPER, alpha=alpha, gid=gid if side == 0 else f"{gid}-after")
            )
            tips[f"{gid}-after"] = tips[gid]
            names = (block, block.rpartition(".")[2], "")
            short = next(text for text in names if not text or len(text) < widths[side] * _LETTERS)
            place_of_name = (left[side] + widths[side] / 2, bottom + 0.19)
            axes.text(*place_of_name, short, ha="center", va="center", fontsize=8, color=PAPER)
        between = [(left[0], 0.62), (left[0] + widths[0], 0.62), (left[1] + widths[1], 0.38), (left[1], 0.38)]
        axes.add_patch(Polygon(between, facecolor=GRID, edgecolor=PAPER, alpha=0.7))
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_xlim(0.0, max(1.0, left[1]))
    axes.set_ylim(-0.02, 1.02)
    axes.set_yticks([0.81, 0.19], ["before", "after"], color=INK)
    axes.set_xticks([])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"{metric.label} by block: {format_percent(left[1])} of {metric.text(whole)} left")
