"""The figures of a search: its candidates and its progress."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from search.output.numbers import format_count
from search.report.figures.style import (
    BASELINE_MARKS,
    BLUE,
    MUTED,
    PAPER,
    RED,
    new_figure,
    outside_legend,
)
from search.report.view import SearchView, TrialPoint, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def front_figure(view: SearchView, report: Mapping[str, Any]) -> Figure:
    """Draw every candidate by its cost and score, the front, the chosen one and the baselines."""
    figure = new_figure()
    axes = figure.add_subplot()
    reference = (report.get("reference") or {}).get(view.cost)
    if reference:
        divisor, label = reference / 100, f"{words(view.cost)} [% of the reference's {format_count(reference)}]"
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
    for name, (mark, color) in BASELINE_MARKS.items():
        before = ((report.get("baselines") or {}).get(name) or {}).get("before_retraining") or {}
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
        cost = f"{chosen.cost / divisor:.1f} % of the {words(view.cost)}" if reference else format_count(chosen.cost)
        title = f"Chosen: {words(view.score)} {value} at {cost}, before retraining"
    axes.set_title(title)
    outside_legend(axes)
    return figure


def _cloud(axes: Axes, view: SearchView, place: Callable[[TrialPoint], tuple[float, float]]) -> None:
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


def progress_figure(view: SearchView) -> Figure:
    """Draw every candidate in the order of proposing, and the best so far."""
    figure = new_figure(height=3.4)
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
    outside_legend(axes)
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
