"""One page that puts runs side by side: results, targets, fronts, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from evaluators.metrics import find_metric
from search.config.yaml_text import in_yaml
from search.report.targets import cost_of
from search.report.view import described_metrics, error_of, primary_of, score_metric, score_of, search_views
from search.run.differences import differences
from search.run.run_records import read_config
from spaces.errors import SecateursError
from spaces.files.reading import FileError

COSTS = ("macs", "parameters", "size_bytes", "bit_operations", "weight_bits", "latency_ms")
"""Costs in the table of results, as far as a run is about them."""

_LONGEST = 160
"""Letters of a setting that are shown."""
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, headings and rows of a table, as text."""


def comparison_tables(runs: Mapping[str, Mapping[str, Any]], configs: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """Return the tables of the page; a table of nothing is left out.

    Args:
        runs: The content of report.json, by the label of the run.
        configs: The configuration of every run, as plain data, by the same labels.
    """
    found = [_results(runs), _targets(runs), _fronts(runs), _settings(configs)]
    return [table for table in found if table[2]]


def _results(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    bits = any(report.get("bits") for report in runs.values())
    costs = [name for name in COSTS if bits or name not in ("bit_operations", "weight_bits")]
    rows = []
    for label, report in runs.items():
        for role in ("reference", "result"):
            network, cells = report.get(role) or {}, []
            score = score_of(network, primary_of(report))
            if score is None:
                cells.append("-")
            else:
                metric = score_metric(score[0], report)
                cells.append(f"{metric.label} {metric.with_error(score[1], error_of(network, score[0]))}")
            described = described_metrics(report)
            for name in costs:
                value = cost_of(network, name)
                cells.append("-" if value is None else find_metric(name, described).text(value))
            rows.append([label if role == "result" else f"{label}: reference", *cells])
    return "Results on the test split", ["run", "score", *(find_metric(name).label for name in costs)], rows


def _targets(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for label, report in runs.items():
        for name, target in (report.get("targets") or {}).items():
            metric = find_metric(name, described_metrics(report))
            value = cost_of(report.get("result"), name)
            reached = "-" if value is None else metric.text(value)
            rows.append([label, metric.label, str(target.get("text")), reached, "met" if target.get("met") else "NOT met"])
    return "Targets", ["run", "on", "as written", "reached", "met?"], rows


def _fronts(runs: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for label, report in runs.items():
        for view in search_views(report):
            for point in view.front:
                chosen = "delivered" if point.number == view.chosen else ""
                score, cost = view.score_metric, view.cost_metric
                values = [f"{score.label} {score.text(point.score)}", f"{cost.label} {cost.text(point.cost)}"]
                rows.append([f"{label}, {view.stage}", *values, str(point.number), chosen])
    return "Fronts, on the search split before retraining", ["search", "score", "cost", "trial", ""], rows


def _settings(configs: Mapping[str, Mapping[str, Any]]) -> Table:
    labels = list(configs)
    first = _by_stages(configs[labels[0]]) if labels else {}
    paths: dict[tuple[str, ...], dict[str, Any]] = {}
    for label in labels[1:]:
        for one in differences(first, _by_stages(configs[label])):
            if one.path[0] != "name":
                paths.setdefault(one.path, dict.fromkeys(labels, one.old))[label] = one.new
    rows = [[".".join(path), *(_as_yaml(value) for value in values.values())] for path, values in paths.items()]
    return "Settings that differ", ["setting", *labels], rows


def _by_stages(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with its stages by name, so that those of lists of different lengths are compared one by one."""
    stages = config.get("stages")
    if not isinstance(stages, list):
        return dict(config)
    found: dict[str, Any] = {}
    for stage in stages:
        entries = dict(stage) if isinstance(stage, Mapping) else {str(stage): {}}
        for name, settings in entries.items():
            again = sum(key.split(" ")[0] == name for key in found)
            found[f"{name} {again + 1}" if again else name] = settings
    return {**config, "stages": found}


def _as_yaml(value: Any) -> str:
    """Return a setting as a configuration has it on one line, cut where it is long; ``-`` for none."""
    text = "-" if value is None else in_yaml(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def compare(folders: Sequence[Path], output: Path) -> Path:
    """Write the page of several runs, and return its path. Folders are only read, and may be somebody else's.

    Args:
        folders: Run folders, two at least.
        output: The page.

    Raises:
        SecateursError: There are fewer than two, one has no report, or a file of one is damaged.
    """
    from search.config.extras import require_extra
    from search.output.atomic import write_text
    from search.report.page import fill_template, read_report

    require_extra("report", "compare")
    if len(folders) < 2:
        raise SecateursError(f"expected the folders of two runs or more, got {len(folders)}")
    names = [folder.resolve().name for folder in folders]
    labels = [name if names.count(name) == 1 else str(folder) for name, folder in zip_longest(names, folders)]
    if len(set(labels)) < len(labels):
        raise SecateursError("a run is named twice; expected folders of different runs")
    runs = {label: read_report(folder / "report.json") for label, folder in zip(labels, folders, strict=True)}
    configs: dict[str, Mapping[str, Any]] = {}
    for label, folder in zip(labels, folders, strict=True):
        try:
            configs[label] = read_config(folder / "config.yaml")
        except (OSError, FileError) as error:
            raise SecateursError(f"{folder / 'config.yaml'} can't be read: {error}") from None
    write_text(output, fill_template("comparison.html", tables=comparison_tables(runs, configs), labels=labels))
    return output
