"""The tables of the networks of a report: before and after, and the baselines at equal cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evaluators.metrics import METRICS, Metric, find_metric
from search.output.numbers import format_percent, shows
from search.report.cards import COUNTED
from search.report.targets import cost_of, limits_on_costs, target_cells, target_headings
from search.report.view import Row, described_metrics, error_of, network_words, primary_of, score_metric, score_of, scores_of


def _figures_of(network: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, tuple[Metric, float]]:
    """Return description and value of every metric measured on a network, by name: scores, the loss, costs."""
    described = described_metrics(report)
    scores = scores_of(network, primary_of(report))
    found = {name: (score_metric(name, report), value) for name, value in scores.items()}
    for name in dict.fromkeys([*METRICS, *described]):
        if name not in found and isinstance(network.get(name), int | float):
            found[name] = find_metric(name, described), float(network[name])
    return found


def shown_metrics(report: Mapping[str, Any]) -> dict[str, tuple[Metric, float]]:
    """Return description and value of the result's metrics that a report shows: bit operations only where bits were chosen."""
    found = _figures_of(report.get("result") or {}, report)
    if not report.get("bits") and "bit_operations" not in (report.get("targets") or {}):
        found.pop("bit_operations", None)
    return found


def network_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return a row per metric: before, after, and the change."""
    reference, result = (report.get(role) or {} for role in ("reference", "result"))
    before = _figures_of(reference, report)
    rows = []
    for name, (metric, value) in shown_metrics(report).items():
        first = before[name][1] if name in before else None
        after = metric.with_error(value, error_of(result, name))
        cells = ("-", after, "-")
        if first is not None:
            cells = (metric.with_error(first, error_of(reference, name)), after, _change(metric, first, value))
        rows.append(Row(metric.label, cells))
    return rows


def _change(metric: Metric, before: float, after: float) -> str:
    """Return a change in words; of a cost that changed by less than a two-hundredth its share, as 1.00x says nothing."""
    if before == after:
        return "the same"
    if metric.is_cost and before and not shows(before, after):
        return f"{(after / before - 1.0) * 100:+.2g} %"
    return metric.change(before, after)


def error_text(report: Mapping[str, Any]) -> str:
    """Return what the standard errors of the test scores stand on, in words; nothing where none is known."""
    networks = [report.get("reference"), report.get("result"), *(report.get("baselines") or {}).values()]
    known = [network for network in networks if network and network.get("standard_errors")]
    if not known:
        return ""
    draws = [network["resamples"] for network in known if network.get("resamples") is not None]
    text = "± is the standard error over the samples of the test split"
    if not draws:
        return f"{text}."
    from evaluators.tasks.bootstrap import RESAMPLES, SECONDS

    fewer = "" if min(draws) >= RESAMPLES else f"; {min(draws)} where their time of {SECONDS:.0f} s was up"
    return f"{text}, of metrics that accumulate by bootstrap ({max(draws)} resamples{fewer})."


def baseline_headings(report: Mapping[str, Any]) -> list[str]:
    """Return the headings of :func:`baseline_rows`."""
    return ["", "score", "difference", *(find_metric(name).label for name in _columns(report)), *target_headings(report)]


def _columns(report: Mapping[str, Any]) -> list[str]:
    """Return the costs, beside those with a target, in which result and baselines differ from the reference."""
    limits, base = limits_on_costs(report), report.get("reference")
    networks = [report.get("result"), *(report.get("baselines") or {}).values()]
    costs = [name for name in COUNTED if name not in limits and (name != "bit_operations" or report.get("bits"))]
    pairs = {name: [(cost_of(base, name), cost_of(network, name)) for network in networks if network] for name in costs}
    return [name for name in costs if any(before and after and shows(before, after) for before, after in pairs[name])]


def baseline_rows(report: Mapping[str, Any]) -> list[Row]:
    """Return a row per network with a score: the result, the baselines and the reference; none without baselines."""
    networks = {"result": report.get("result"), **(report.get("baselines") or {}), "reference": report.get("reference")}
    own = score_of(report.get("result"), primary_of(report))
    rows = []
    for name, network in networks.items():
        score = score_of(network, primary_of(report))
        if not network or own is None or score is None:
            continue
        metric = score_metric(score[0], report)
        difference = "" if name == "result" or score[0] != own[0] else metric.difference(own[1], score[1])
        costs = (_cost_cell(cost, network, report) for cost in _columns(report))
        cells = (metric.with_error(score[1], error_of(network, score[0])), difference, *costs, *target_cells(network, report))
        rows.append(Row(network_words(name, report), cells, strong=name == "result"))
    return rows if len(rows) > 2 else []


def _cost_cell(name: str, network: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    value, base = cost_of(network, name), cost_of(report.get("reference"), name)
    if value is None:
        return "-"
    text = find_metric(name).text(value)
    return f"{text}, {format_percent(value / base)}" if name == "macs" and base else text
