"""The figure of bits per layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.output.numbers import format_count
from search.report.figures.base import Drawing, Figure
from search.report.figures.layer_axis import label_layers, wide_figure
from search.report.figures.style import BLUE, ORANGE, outside_legend

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas


class Bits(Figure):
    """The bits of every layer's weights and inputs."""

    name = "bits"
    title = "Bits per layer"
    section = "bits"

    def applies(self, report: Mapping[str, Any]) -> bool:
        """Return whether layers were quantized."""
        return bool(report.get("bits"))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        """Yield the one drawing."""
        yield Drawing(bits_per_layer(report["bits"]))


def bits_per_layer(entries: Sequence[Mapping[str, Any]]) -> Canvas:
    """Draw the bits of every layer's weights and inputs."""
    figure = wide_figure(len(entries), height=4.2)
    axes = figure.add_subplot()
    weights = [(place, entry["weight_bits"]) for place, entry in enumerate(entries) if entry.get("weight_bits")]
    inputs = [(place, entry["activation_bits"]) for place, entry in enumerate(entries) if entry.get("activation_bits")]
    if weights:
        axes.bar([place for place, _ in weights], [bits for _, bits in weights], color=BLUE, width=0.8, label="weights")
    if inputs:
        axes.plot(
            [place for place, _ in inputs],
            [bits for _, bits in inputs],
            color=ORANGE,
            marker="D",
            linestyle="none",
            markersize=5,
            label="input",
        )
    label_layers(axes, [str(entry["name"]) for entry in entries])
    axes.set_ylabel("bits")
    axes.set_ylim(0, 8.6)
    total = sum(entry["weights"] for entry in entries if entry.get("weight_bits"))
    average = sum(entry["weights"] * entry["weight_bits"] for entry in entries if entry.get("weight_bits")) / max(1, total)
    axes.set_title(f"{average:.2f} bits per weight on average over {format_count(total)} weights")
    outside_legend(axes)
    return figure
