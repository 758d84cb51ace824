"""report.html and figures/: report.json rendered for people. Nothing is measured here."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from evaluators.metrics import METRICS, Metric, find_metric
from search.config.extras import install_command, is_installed, require_extra
from search.config.renamed import with_present_names
from search.output.file_names import safe_file_name
from search.output.log_records import PACKAGE
from search.output.numbers import format_bytes, format_count, format_percent, metric_value, times
from search.report.bits import bit_rows, deployment_text
from search.report.latency import latency_rows, latency_text
from search.report.resolved import HEADINGS, resolved_rows
from search.report.seeds import seed_rows
from search.report.summary import target_text
from search.report.targets import search_targets, target_cells, target_headings, target_tiles
from search.report.validation import check_report
from search.report.view import (
    Row,
    described_metrics,
    error_of,
    primary_of,
    score_metric,
    score_of,
    scores_of,
    words,
)
from search.run.failures import failures_of
from spaces.errors import SecateursError
from spaces.files.atomic import replace_file
from spaces.files.json_file import is_digested, read_content, read_record, undigested, unpack_record
from spaces.files.reading import FileError
from spaces.files.text_file import read_commented

MAX_TEXT_LENGTH = 2**20
"""Longest configuration that a page shows, in characters."""


class ReportError(SecateursError):
    """No report.json to render, or one that is no report."""


def render(folder: str | Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` from the ``report.json`` in a run folder.

    The page needs nothing but itself: no scripts, fonts or pictures from elsewhere.

    Returns:
        Path of the page.

    Raises:
        MissingExtraError: The extra ``report`` is not installed.
        ReportError: There is no report.json, or it is no report.
    """
    require_extra("report", "report.html")
    folder = Path(folder)
    report = read_report(folder / "report.json")
    try:
        return _render(folder, report)
    except (SecateursError, OSError):
        raise
    except Exception as error:
        raise ReportError(
            f"{folder / 'report.json'} can't be shown ({type(error).__name__}: {error}); the same `run` command writes it anew"
        ) from error


def _render(folder: Path, report: dict[str, Any]) -> Path:
    from search.output.atomic import write_text
    from search.report.figures.base import SECTIONS
    from search.report.figures.pictures import draw

    pictures = draw(report)
    figures = folder / "figures"
    if figures.is_symlink():
        raise ReportError(f"{figures} is a link out of the run folder; expected a folder, or nothing: remove the link")
    figures.mkdir(exist_ok=True)
    for picture in pictures:
        replace_file(figures / f"{safe_file_name(picture.name)}.png", picture.png)
    page = fill_template(
        "report.html",
        report=report,
        headline=_headline(report),
        networks=_networks(report),
        error_text=_error_text(report),
        baselines=_baselines(report),
        target_headings=target_headings(report),
        latency=latency_rows(report),
        latency_text=latency_text(report),
        pictures=pictures,
        sections=SECTIONS,
        searches=[_search_row(entry, report) for entry in report.get("searches") or []],
        asynchronous=[str(entry.get("stage")) for entry in report.get("searches") or [] if entry.get("asynchronous")],
        sparsifiers=[_sparsifier(entry) for entry in report.get("sparsifiers") or []],
        omegas=[
            (str(entry.get("stage", "search")), entry["omega"]["text"])
            for entry in report.get("searches") or []
            if entry.get("omega")
        ],
        sensitivity=[_sensitivity(entry) for entry in report.get("searches") or [] if entry.get("sensitivity")],
        programs=[row for entry in report.get("searches") or [] for row in _programmes(entry)],
        stages=_stages(report),
        whole_cost=_whole_cost(report),
        seeds=seed_rows(report),
        resolved=resolved_rows(report),
        resolved_headings=["", *HEADINGS],
        frozen=_frozen(report),
        retention=_retention(report),
        output_changes=report.get("output_changes") or [],
        bits=bit_rows(report),
        deployment=deployment_text(report),
        merged=[row for entry in report.get("activations") or [] for row in _merged(entry)],
        apart=[row for entry in report.get("activations") or [] for row in _apart(entry)],
        failures=[Row(what, (error,)) for what, error in failures_of(report)],
        remarks=[str(remark) for remark in report.get("remarks") or []],
        environment=_environment(report.get("environment") or _json(folder / "environment.json")),
        config=_text(folder / "config.yaml"),
        error=report.get("equivalence_max_abs_error"),
        favicon=base64.b64encode(_FAVICON.encode()).decode(),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


_FAVICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<path d="M3 2l5 7 5-7M5 14a2 2 0 1 1 2-3l1-2 1 2a2 2 0 1 1 2 3" fill="none" stroke="#0072b2" stroke-width="1.6"/></svg>'
)


def render_where_installed(folder: Path, say: Callable[[str], None]) -> None:
    """Render the report, or say in one line that the extra for it is missing, and what renders it later."""
    if is_installed("report"):
        render(folder)
    else:
        say(f"no report.html without the extra `report`: {install_command(['report'])}, then python -m search report {folder}")


def read_report(path: Path) -> dict[str, Any]:
    """Return the content of a report.json, checked.

    Raises:
        ReportError: It is missing or damaged.
    """
    if not path.exists():
        found = "the run has not ended yet: go on with it first" if (path.parent / "config.yaml").exists() else "no run folder"
        raise ReportError(f"{path.parent} has no report.json ({found}); expected the folder of a run, such as runs/NAME")
    try:
        content = read_content(path)
        report = with_present_names(unpack_record(content, str(path)))
        check_report(report, str(path))
    except FileError as error:
        raise ReportError(f"{error}; the same `run` command writes it anew") from None
    if not is_digested(content):
        PACKAGE.warning(undigested(path))
    return {"name": path.parent.name, "seed": None, **report}


def fill_template(name: str, **content: Any) -> str:
    """Return a template of this package with its content filled in; texts are escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name).render(**content)


def _headline(report: Mapping[str, Any]) -> dict[str, Any]:
    before, after = report.get("reference") or {}, report.get("result") or {}
    met = report.get("target_met")
    tiles = []
    if before.get("macs") and after.get("macs") and before["macs"] != after["macs"]:
        tiles.append(
            (times(before["macs"], after["macs"]), "fewer MACs", f"{format_percent(after['macs'] / before['macs'])} left")
        )
    if before.get("parameters") and after.get("parameters") and before["parameters"] != after["parameters"]:
        share = format_percent(after["parameters"] / before["parameters"])
        tiles.append((times(before["parameters"], after["parameters"]), "fewer parameters", f"{share} left"))
    first, last = (score_of(network, primary_of(report)) for network in (before, after))
    if first and last and first[0] == last[0]:
        metric = score_metric(first[0], report)
        change = metric.difference(first[1], last[1])
        values = f"{metric.text(first[1]).removesuffix(metric.style.unit)} to {metric.text(last[1])}"
        if metric.is_share(first[1], last[1]):
            tiles.append((change, f"points of {metric.label}", f"{values}, test split"))
        else:
            tiles.append((change, f"{metric.label} on the test split", values))
    if before.get("size_bytes") and after.get("size_bytes"):
        tiles.append((format_bytes(after["size_bytes"]), "of weights", f"from {format_bytes(before['size_bytes'])}"))
    tiles += target_tiles(report)
    verdict = {True: "target met", False: "target NOT met", None: "no target"}[met if isinstance(met, bool) else None]
    target = target_text(report["target"]) if report.get("target") else ""
    return {"tiles": tiles, "met": met, "verdict": verdict, "target": target}


def _figures_of(network: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, tuple[Metric, float]]:
    """Return description and value of every metric measured on a network, by name: scores, the loss, costs."""
    described = described_metrics(report)
    scores = scores_of(network, primary_of(report))
    found = {name: (score_metric(name, report), value) for name, value in scores.items()}
    for name in dict.fromkeys([*METRICS, *described]):
        if name not in found and isinstance(network.get(name), int | float):
            found[name] = find_metric(name, described), float(network[name])
    return found


def _networks(report: Mapping[str, Any]) -> list[Row]:
    reference, result = (report.get(role) or {} for role in ("reference", "result"))
    before = _figures_of(reference, report)
    rows = []
    for name, (metric, value) in _figures_of(result, report).items():
        first = before[name][1] if name in before else None
        after = metric.with_error(value, error_of(result, name))
        cells = ("-", after, "-")
        if first is not None:
            cells = (metric.with_error(first, error_of(reference, name)), after, metric.change(first, value))
        rows.append(Row(metric.label, cells))
    return rows


def _error_text(report: Mapping[str, Any]) -> str:
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


def _baselines(report: Mapping[str, Any]) -> list[Row]:
    networks = {"result": report.get("result"), **(report.get("baselines") or {}), "reference": report.get("reference")}
    base = (report.get("reference") or {}).get("macs")
    own = score_of(report.get("result"), primary_of(report))
    rows = []
    for name, network in networks.items():
        score = score_of(network, primary_of(report))
        if not network or own is None or score is None:
            continue
        metric = score_metric(score[0], report)
        difference = "" if name == "result" or score[0] != own[0] else metric.difference(own[1], score[1])
        share = format_percent(network["macs"] / base) if base and network.get("macs") else "-"
        cells = (
            metric.with_error(score[1], error_of(network, score[0])),
            difference,
            share,
            format_count(network.get("parameters")),
            format_bytes(network.get("size_bytes")),
            *target_cells(network, report),
        )
        rows.append(Row("this result" if name == "result" else words(name), cells, strong=name == "result"))
    return rows if len(rows) > 2 else []


def _search_row(entry: Mapping[str, Any], report: Mapping[str, Any]) -> Row:
    trials = entry.get("trials") or []
    full = sum(trial.get("fidelity", 1.0) >= 1.0 and trial.get("state") != "failed" for trial in trials)
    front = str(len(entry.get("pareto") or []))
    chosen = "-" if entry.get("chosen") is None else str(entry["chosen"])
    cells = (
        str(len(trials)),
        str(full),
        str(entry.get("failed") or 0),
        front,
        chosen,
        _seconds(entry.get("worker_seconds") or 0.0) or "-",
        search_targets(entry, report),
        str(entry.get("ended_by") or "-"),
    )
    return Row(str(entry.get("stage", "search")), cells)


def _sparsifier(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schedule and the table of shares of a stage that trained with a sparsifier."""
    rows = [
        Row(one["name"], (str(one["channels"]), _share(one["asked"]), _share(one["reached"])))
        for one in entry.get("shares") or []
    ]
    return {"stage": str(entry.get("stage", "")), "text": (entry.get("schedule") or {}).get("text", ""), "rows": rows}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _sensitivity(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tables of rank correlations between kinds of sensitivity and the measured loss."""
    found = entry["sensitivity"]
    kinds = list(found["rows"][0]["predicted"]) if found["rows"] else []
    rows = [
        Row(
            row["decision"],
            (
                str(row["bits"]),
                *(f"{row['predicted'][kind]:.2e}" for kind in kinds),
                f"{row['measured']:.2e} ± {row['standard_error']:.1e}",
            ),
        )
        for row in found["rows"]
    ]
    correlations = {(one["first"], one["second"], one["over"]): one["value"] for one in found["correlations"]}
    pairs = [
        Row(
            f"{words(first)} and {words(second)}", tuple(_correlation(correlations.get((first, second, over))) for over in OVER)
        )
        for first, second in dict.fromkeys((first, second) for first, second, _ in correlations)
    ]
    return {
        "stage": str(entry.get("stage", "search")),
        "kind": f"{found['kind']} ({found['moments']})" if found.get("moments") else found["kind"],
        "samples": found["samples"],
        "kinds": kinds,
        "rows": rows,
        "pairs": pairs,
        "negative": list(found["negative"]),
    }


OVER = ("weights", "all")
"""Sets of decisions that rank correlations are taken over."""


def _correlation(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _programmes(entry: Mapping[str, Any]) -> list[Row]:
    """Return a row per integer program that a search solved."""
    return [
        Row(
            ", ".join(f"{words(metric)} <= {metric_value(metric, limit)}" for metric, limit in one["limits"].items()),
            (
                words("omega" if "omega" in one else "divergence"),
                f"{one.get('omega', one.get('divergence', float('nan'))):.4g}",
                f"{one['bound']:.4g}" if one.get("exact", True) and "bound" in one else "-",
                format_percent(one["gap"]),
                one["fingerprint"],
            ),
        )
        for one in (entry.get("algorithm") or {}).get("programmes") or []
    ]


def _stages(report: Mapping[str, Any]) -> list[tuple[str, float, str, str]]:
    """Return, per stage: name, time as a share of the longest stage's, time in words, and time of its baselines in words."""
    entries = [entry for entry in report.get("stages") or [] if isinstance(entry.get("seconds"), int | float)]
    longest = max((entry["seconds"] for entry in entries), default=0.0) or 1.0
    rows = []
    for entry in entries:
        beside = sum((entry.get("baseline_seconds") or {}).values())
        share = entry["seconds"] / longest
        rows.append((words(str(entry.get("name", ""))), share, _seconds(entry["seconds"]) or "-", _seconds(beside)))
    return rows


def _whole_cost(report: Mapping[str, Any]) -> str:
    """Return the cost of the whole run in words: evaluations, epochs, time."""
    searches = report.get("searches") or []
    evaluations = sum(len(entry.get("trials") or []) for entry in searches)
    workers = sum(entry.get("worker_seconds") or 0.0 for entry in searches)
    epochs = sum(len(entry.get("epochs") or []) for entry in report.get("histories") or [])
    own = sum(entry.get("seconds") or 0.0 for entry in report.get("stages") or [])
    beside = sum(sum((entry.get("baseline_seconds") or {}).values()) for entry in report.get("stages") or [])
    parts = [f"{evaluations} evaluations ({_seconds(workers)} of workers' time)"] if evaluations else []
    parts += [f"{epochs} epochs of training"] if epochs else []
    parts += [f"{_seconds(own)} in all"] if own else []
    parts += [f"and {_seconds(beside)} for the baselines"] if beside else []
    return ", ".join(parts)


def _seconds(value: float) -> str:
    if value <= 0:
        return ""
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min" if value < 7200 else f"{value / 3600:.1f} h"


def _frozen(report: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            str(entry.get("name", "")),
            (str(entry.get("size", "")), format_percent(entry.get("macs_share")), str(entry.get("reason", ""))),
        )
        for entry in report.get("frozen") or []
    ]


def _retention(report: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Return a row per network, and one per layer of the result, with the shares of task relevance kept."""
    found = {role: entry for role, entry in (report.get("retention") or {}).items() if "retained" in entry}
    networks = [
        Row(
            "this result" if role == "result" else words(role),
            (format_percent(entry["chosen"]), format_percent(entry["retained"])),
            strong=role == "result",
        )
        for role, entry in found.items()
    ]
    layers = [
        Row(
            entry["name"],
            (f"{entry['kept']} of {entry['channels']}", format_percent(entry["chosen"]), format_percent(entry["retained"])),
        )
        for entry in found.get("result", {}).get("layers") or []
    ]
    return {"networks": networks, "layers": layers}


def _merged(entry: Mapping[str, Any]) -> list[Row]:
    return [
        Row(", ".join(merge["nodes"]), (merge["where"], ", ".join(merge["activations"]), merge["result"]))
        for merge in entry.get("merges") or []
    ]


def _apart(entry: Mapping[str, Any]) -> list[Row]:
    return [Row(", ".join(left["nodes"]), (left["where"], left["reason"])) for left in entry.get("left") or []]


def _environment(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for name, value in found.items():
        entries = value.items() if isinstance(value, Mapping) else ((name, value),)
        rows.extend(Row(str(key), (str(item),)) for key, item in entries if item is not None)
    return rows


def _json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, an empty one where there is none; in place of a damaged one, a line on it."""
    try:
        return read_record(path, follow=False)
    except OSError:
        return {}
    except FileError as error:
        PACKAGE.warning("%s", error)
        return {path.name: "damaged"}


def _text(path: Path) -> str:
    """Return a text file of the run folder itself, empty where there is none; in place of a damaged one, a line on it."""
    try:
        found = read_commented(path, follow=False)
    except OSError:
        return ""
    except FileError as error:
        PACKAGE.warning("%s", error)
        return f"{path.name} is damaged"
    return found if len(found) <= MAX_TEXT_LENGTH else f"{path.name} has {len(found):,} characters: too long to be shown"
