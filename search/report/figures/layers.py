"""The figures of a network's layers: channels, task relevance and bits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.output.numbers import format_count, format_percent
from search.report.figures.style import (
    BASELINE_MARKS,
    BLUE,
    GRID,
    MUTED,
    ORANGE,
    PAPER,
    SKY,
    new_figure,
    outside_legend,
)
from search.report.view import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def channels_per_layer(layers: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw how many channels every group had, and how many it has kept."""
    total, kept = [entry["channels"] for entry in layers], [entry["kept"] for entry in layers]
    figure = new_figure(width=max(9.0, min(24.0, 0.3 * len(layers))), height=4.4)
    axes = figure.add_subplot()
    places = range(len(layers))
    axes.bar(places, total, color=GRID, width=0.8, label="before")
    axes.bar(places, kept, color=BLUE, width=0.8, label="kept")
    if len(layers) <= 30:
        for place, before, after in zip(places, total, kept, strict=True):
            axes.annotate(
                f"{100 * after / before:.0f}%",
                (place, before),
                (0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=MUTED,
            )
    every = math.ceil(len(layers) / 80)
    names = [_shortened(str(entry["name"])) for entry in layers]
    axes.set_xticks(list(places)[::every], names[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("channels")
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)
    ratios = [after / before for before, after in zip(total, kept, strict=True)]
    least = min(range(len(ratios)), key=ratios.__getitem__)
    share = format_percent(sum(kept) / sum(total))
    axes.set_title(
        f"{share} of {sum(total)} coupled channels kept; fewest in {layers[least]['name']} ({format_percent(ratios[least])})"
    )
    outside_legend(axes)
    return figure


def relevance_kept(retention: Mapping[str, Any]) -> Figure:
    """Draw what every layer keeps of the reference's relevance: the result as bars, the baselines as marks."""
    layers = retention["result"]["layers"]
    figure = new_figure(width=max(9.0, min(24.0, 0.3 * len(layers))), height=4.4)
    axes = figure.add_subplot()
    places = {entry["name"]: place for place, entry in enumerate(layers)}
    chosen, retained = ([100 * entry[which] for entry in layers] for which in ("chosen", "retained"))
    axes.bar(list(places.values()), chosen, color=GRID, width=0.8, label="in the channels kept")
    axes.bar(list(places.values()), retained, color=BLUE, width=0.5, label="in the result")
    for role, found in retention.items():
        shown = [(places[entry["name"]], 100 * entry["retained"]) for entry in found["layers"] if entry["name"] in places]
        if role != "result" and shown:
            mark, color = BASELINE_MARKS.get(role, ("X", SKY))
            xs, ys = [place for place, _ in shown], [share for _, share in shown]
            axes.scatter(xs, ys, s=28, marker=mark, color=color, edgecolors=PAPER, zorder=4, label=words(role))
    every = math.ceil(len(layers) / 80)
    names = [_shortened(name) for name in places]
    axes.set_xticks(
        list(range(len(names)))[::every], names[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.axhline(100, color=MUTED, linewidth=0.8)
    axes.set_ylabel("of the reference's relevance [%]")
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)
    least = min(layers, key=lambda entry: float(entry["retained"]))
    share = format_percent(retention["result"]["retained"])
    axes.set_title(f"{share} of the task relevance retained; least in {least['name']} ({format_percent(least['retained'])})")
    outside_legend(axes)
    return figure


def bits_per_layer(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the bits of every layer's weights and inputs."""
    figure = new_figure(width=max(9.0, min(24.0, 0.3 * len(entries))), height=4.2)
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
    every = math.ceil(len(entries) / 80)
    names = [_shortened(str(entry["name"])) for entry in entries]
    axes.set_xticks(range(len(entries))[::every], names[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_ylabel("bits")
    axes.set_ylim(0, 8.6)
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)
    total = sum(entry["weights"] for entry in entries if entry.get("weight_bits"))
    average = sum(entry["weights"] * entry["weight_bits"] for entry in entries if entry.get("weight_bits")) / max(1, total)
    axes.set_title(f"{average:.2f} bits per weight on average over {format_count(total)} weights")
    outside_legend(axes)
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:10]}…{name[-15:]}"
