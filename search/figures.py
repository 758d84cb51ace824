"""The pictures of a report, drawn once for the page (SVG that follows its colours) and once for other uses (PNG)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from search.numbers import count, percent
from search.participation_figure import participation_figure
from search.report_view import Point, SearchView, score_of, words
from search.sensitivity_figure import sensitivity_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart by people who confuse red and green. The page swaps each for its own variable.
INK, MUTED, GRID, PAPER = "#1c2126", "#5f6b76", "#dfe3e8", "#fefefd"
BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f01", "#009e74", "#d55e01", "#cc79a8", "#56b4ea"
CSS_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    PAPER: "--card",
    BLUE: "--blue",
    ORANGE: "--orange",
    GREEN: "--green",
    RED: "--red",
    PURPLE: "--purple",
    SKY: "--sky",
}
_STYLE: Any = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "axes.titlepad": 12,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
}
YARDSTICK_MARKS = {
    "uniform": ("s", ORANGE),
    "global_magnitude": ("D", PURPLE),
    "random": ("^", GREEN),
    "dense_same_training": ("P", SKY),
}


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
    with mpl.rc_context(_STYLE):
        for index, view in enumerate(searches):
            suffix = "" if index + 1 == len(searches) else f"_{view.stage}"
            pictures.extend(_picture(f"front{suffix}", "The search", _front(view, report)) for _ in range(bool(view.points)))
            pictures.extend(_picture(f"progress{suffix}", "Progress", _progress(view)) for _ in range(len(view.points) > 1))
        test = _test_points(report)
        if len(test) > 1:
            pictures.append(
                _picture("result", "After retraining, on the test split", _result(test, report.get("test_samples") or 0))
            )
        for entry in report.get("searches") or []:
            if (entry.get("sensitivity") or {}).get("rows"):
                name = f"sensitivity_{entry.get('stage', 'search')}"
                pictures.append(_picture(name, "Sensitivity", sensitivity_figure(entry["sensitivity"], _figure())))
        layers = report.get("layers") or []
        if layers:
            pictures.append(_picture("layers", "Channels per layer", _layers(layers)))
        retention = {role: found for role, found in (report.get("retention") or {}).items() if found.get("layers")}
        if "result" in retention:
            pictures.append(_picture("retention", "Task-relevant features kept", _retention(retention)))
        for index, record in enumerate(report.get("participation") or []):
            pictures.append(_picture(f"participation{index or ''}", "Participation over time", _participation(record)))
        bits = report.get("bits") or []
        if bits:
            pictures.append(_picture("bits", "Bits per layer", _bits(bits)))
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


def _figure(width: float = 9.0, height: float = 4.2) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _percent_axis(axes: Axes, name: str, direction: str) -> float:
    """Label an axis with a score; return what its values are multiplied with."""
    share = name.startswith("top")
    label = f"{words(name)} [%]" if share else words(name)
    (axes.set_ylabel if direction == "y" else axes.set_xlabel)(label)
    return 100.0 if share else 1.0


def _scaled(values: Sequence[float]) -> tuple[float, str]:
    """Return divisor and prefix that make ``values`` short to read."""
    largest = max((abs(value) for value in values), default=1.0)
    return next(((d, p) for d, p in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if largest >= d), (1.0, ""))


def _front(view: SearchView, report: Mapping[str, Any]) -> Figure:
    figure = _figure()
    axes = figure.add_subplot()
    baseline = (report.get("baseline") or {}).get(view.cost)
    if baseline:
        divisor, label = baseline / 100, f"{words(view.cost)} [% of the baseline's {count(baseline)}]"
    else:
        divisor, prefix = _scaled([point.cost for point in view.points])
        label = f"{words(view.cost)} [{prefix}]" if prefix else words(view.cost)
    axes.set_xlabel(label)
    scale = _percent_axis(axes, view.score, "y")
    axes.set_ylabel(f"{axes.get_ylabel()}\nsearch split")
    _cloud(axes, view, lambda point: (point.cost / divisor, point.score * scale))
    if view.front:
        xs, ys = [p.cost / divisor for p in view.front], [p.score * scale for p in view.front]
        axes.plot(xs, ys, color=BLUE, marker="o", markersize=5, linewidth=1.6, label=f"Pareto front ({len(view.front)})")
    chosen = view.chosen_point
    if chosen is not None:
        place = ([chosen.cost / divisor], [chosen.score * scale])
        axes.scatter(*place, marker="*", s=230, color=RED, edgecolors=PAPER, zorder=5, label=f"chosen, trial {chosen.number}")
    for name, (mark, color) in YARDSTICK_MARKS.items():
        before = ((report.get("yardsticks") or {}).get(name) or {}).get("before_retraining") or {}
        if before.get(view.cost) is not None and before.get(view.score) is not None:
            place = ([before[view.cost] / divisor], [before[view.score] * scale])
            axes.scatter(*place, marker=mark, s=60, color=color, edgecolors=PAPER, zorder=4, label=words(name))
    if view.limit is not None:
        axes.axvline(view.limit / divisor, color=RED, linestyle=(0, (4, 3)), linewidth=1.2)
        spot: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
        axes.annotate("target", (view.limit / divisor, 0.02), xytext=(4, 0), color=RED, fontsize=9, **spot)
    title = f"{len(view.points)} candidates measured in full"
    if chosen is not None:
        value = f"{chosen.score * scale:.1f} %" if scale == 100 else f"{chosen.score:.4g}"
        cost = f"{chosen.cost / divisor:.1f} % of the {words(view.cost)}" if baseline else count(chosen.cost)
        title = f"Chosen: {words(view.score)} {value} at {cost}, before retraining"
    axes.set_title(title)
    _outside_legend(axes)
    return figure


def _cloud(axes: Axes, view: SearchView, place: Callable[[Point], tuple[float, float]]) -> None:
    """Draw every candidate: filled within the targets, hollow over them."""
    for kept, face, label in (
        (False, "none", "over the target"),
        (True, MUTED, "within the target" if view.limit else "tried"),
    ):
        places = [place(point) for point in view.points if point.feasible is kept]
        if places:
            xs, ys = zip(*places, strict=True)
            text = f"{label} ({len(places)})"
            axes.scatter(xs, ys, s=16, facecolors=face, edgecolors=MUTED, alpha=0.6, linewidths=0.8, label=text)


def _outside_legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def _progress(view: SearchView) -> Figure:
    figure = _figure(height=3.4)
    axes = figure.add_subplot()
    scale = _percent_axis(axes, view.score, "y")
    axes.set_xlabel("trial, in the order of proposing")
    _cloud(axes, view, lambda point: (point.number, point.score * scale))
    best: list[tuple[int, float]] = []
    for point in view.points:
        if point.feasible and (not best or view.better(point.score, best[-1][1])):
            best.append((point.number, point.score))
    title = "No candidate kept the target"
    if best:
        last = max(point.number for point in view.points)
        xs, ys = [*(x for x, _ in best), last], [*(y * scale for _, y in best), best[-1][1] * scale]
        axes.step(xs, ys, where="post", color=BLUE, linewidth=2, label="best so far")
        title = f"Best found at trial {best[-1][0]} of {view.evaluated}, after {len(best) - 1} improvements"
    axes.set_title(title)
    _outside_legend(axes)
    return figure


def _test_points(report: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Return name, MACs and score of every network that was measured on the test split."""
    networks = {"baseline": report.get("baseline"), "result": report.get("result"), **(report.get("yardsticks") or {})}
    kind = score_of(report.get("result"))
    points = []
    for name, network in networks.items():
        score = score_of(network)
        macs = (network or {}).get("macs")
        if score is not None and kind is not None and score[0] == kind[0] and macs:
            points.append((name, float(macs), score[1]))
    return points


def _result(points: Sequence[tuple[str, float, float]], samples: int) -> Figure:
    points = sorted(points, key=lambda point: point[2])
    figure = _figure(height=1.3 + 0.4 * len(points))
    axes = figure.add_subplot()
    share = all(0 <= score <= 1 for _, _, score in points)
    scale, unit = (100.0, " %") if share else (1.0, "")
    axes.set_xlabel("score on the test split" + (" [%]" if share else ""))
    # Of a mean of values from 0 to 1; shares of hits have just this one.
    errors = [math.sqrt(score * (1 - score) / samples) * scale if share and samples else 0.0 for _, _, score in points]
    marks = {"baseline": ("o", MUTED), "result": ("*", RED), **YARDSTICK_MARKS}
    for place, (name, macs, score) in enumerate(points):
        mark, color = marks.get(name, ("X", SKY))
        big = 260 if name == "result" else 75
        axes.errorbar([score * scale], [place], xerr=[errors[place]], color=color, linewidth=1, alpha=0.6)
        axes.scatter([score * scale], [place], marker=mark, s=big, color=color, edgecolors=PAPER, zorder=4)
        text = f"{score * scale:.2f}{unit} at {count(macs)} MACs"
        axes.annotate(text, (score * scale, place), (11, 9), textcoords="offset points", va="center", fontsize=9)
    names = ["this result" if name == "result" else words(name) for name, _, _ in points]
    axes.set_yticks(range(len(points)), names)
    axes.set_ylim(-0.6, len(points) - 0.4)
    low, high = points[0][2] * scale - errors[0], points[-1][2] * scale + errors[-1]
    spread = max(high - low, 1e-3 * max(abs(high), 1.0))
    axes.set_xlim(low - 0.1 * spread, high + 0.45 * spread)
    rivals = [score for name, _, score in points if name in ("uniform", "global_magnitude", "random")]
    own = next((score for name, _, score in points if name == "result"), None)
    title = "Before and after, on the test split"
    if rivals and own is not None:
        lead = (own - max(rivals)) * scale
        title = f"The result is {abs(lead):.2f} points {'ahead of' if lead > 0 else 'behind'} the best yardstick at equal cost"
        if abs(lead) < 0.005:
            title = "The result and the best yardstick at equal cost score the same"
        elif abs(lead) < math.sqrt(2) * max(errors):
            title += f",\nwithin the standard error of {samples:,} test samples"
    axes.set_title(title)
    return figure


def _layers(layers: Sequence[Mapping[str, Any]]) -> Figure:
    total, kept = [entry["channels"] for entry in layers], [entry["kept"] for entry in layers]
    figure = _figure(width=max(9.0, min(24.0, 0.3 * len(layers))), height=4.4)
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
    share = percent(sum(kept) / sum(total))
    axes.set_title(
        f"{share} of {sum(total)} coupled channels kept; fewest in {layers[least]['name']} ({percent(ratios[least])})"
    )
    _outside_legend(axes)
    return figure


def _retention(retention: Mapping[str, Any]) -> Figure:
    """Draw what every layer keeps of the baseline's relevance: the result as bars, the yardsticks as marks."""
    layers = retention["result"]["layers"]
    figure = _figure(width=max(9.0, min(24.0, 0.3 * len(layers))), height=4.4)
    axes = figure.add_subplot()
    places = {entry["name"]: place for place, entry in enumerate(layers)}
    chosen, retained = ([100 * entry[which] for entry in layers] for which in ("chosen", "retained"))
    axes.bar(list(places.values()), chosen, color=GRID, width=0.8, label="in the channels kept")
    axes.bar(list(places.values()), retained, color=BLUE, width=0.5, label="in the result")
    for role, found in retention.items():
        shown = [(places[entry["name"]], 100 * entry["retained"]) for entry in found["layers"] if entry["name"] in places]
        if role != "result" and shown:
            mark, color = YARDSTICK_MARKS.get(role, ("X", SKY))
            xs, ys = [place for place, _ in shown], [share for _, share in shown]
            axes.scatter(xs, ys, s=28, marker=mark, color=color, edgecolors=PAPER, zorder=4, label=words(role))
    every = math.ceil(len(layers) / 80)
    names = [_shortened(name) for name in places]
    axes.set_xticks(
        list(range(len(names)))[::every], names[::every], rotation=60, ha="right", rotation_mode="anchor", fontsize=8
    )
    axes.axhline(100, color=MUTED, linewidth=0.8)
    axes.set_ylabel("of the baseline's relevance [%]")
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)
    least = min(layers, key=lambda entry: float(entry["retained"]))
    share = percent(retention["result"]["retained"])
    axes.set_title(f"{share} of the task relevance retained; least in {least['name']} ({percent(least['retained'])})")
    _outside_legend(axes)
    return figure


def _participation(record: Mapping[str, Any]) -> Figure:
    figure = _figure(height=1.2 + 1.6 * math.ceil(min(len(record["layers"]), 16) / 4))
    participation_figure(figure, record, BLUE, INK)
    return figure


def _bits(entries: Sequence[Mapping[str, Any]]) -> Figure:
    figure = _figure(width=max(9.0, min(24.0, 0.3 * len(entries))), height=4.2)
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
    axes.set_title(f"{average:.2f} bits per weight on average over {count(total)} weights")
    _outside_legend(axes)
    return figure


def _shortened(name: str) -> str:
    return name if len(name) <= 26 else f"{name[:10]}…{name[-15:]}"


def _training(histories: Sequence[Mapping[str, Any]]) -> Figure:
    figure = _figure(height=3.8)
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
