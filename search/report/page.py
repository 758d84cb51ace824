"""report.html and figures/: report.json rendered for people. Nothing is measured here."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.config.extras import install_command, is_installed, require_extra
from search.config.renamed import with_present_names
from search.output.file_names import safe_file_name
from search.output.log_records import PACKAGE
from search.output.numbers import format_percent
from search.output.unbroken import unbroken
from search.report.answers import answer_section
from search.report.bits import bit_rows, deployment_text
from search.report.cards import headline
from search.report.durations import stage_rows, whole_cost
from search.report.files import files_text
from search.report.finalists import finalist_table
from search.report.judging import caveats, with_verdicts
from search.report.kept_epochs import kept_text
from search.report.lacking import lacking_text
from search.report.latency import latency_rows, latency_text
from search.report.networks import baseline_headings, baseline_rows, error_text, network_rows, shown_metrics
from search.report.resolved import HEADINGS, resolved_rows
from search.report.searches import program_rows, search_row, sensitivity_tables
from search.report.seeds import seed_rows
from search.report.terms import explained
from search.report.trials import trial_table
from search.report.units import given_and_kept
from search.report.validation import check_report
from search.report.verdict import verdict
from search.report.view import Row, network_words, trained_behind
from search.run.failures import failures_of
from spaces.errors import SecateursError
from spaces.files.atomic import replace_file
from spaces.files.json_file import is_digested, read_content, read_record, undigested, unpack_record
from spaces.files.reading import FileError
from spaces.files.text_file import read_commented

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_TEXT_LENGTH = 2**20
"""Longest configuration that a page shows, in characters."""


class ReportError(SecateursError):
    """No report.json to render, or one that is no report."""


def render(folder: str | Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` from the ``report.json`` in a run folder.

    The page needs nothing but itself: no scripts, fonts or pictures from elsewhere. Its own script, which sorts tables and
    shows words beside the pointer, is the only one that browsers let it run.

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
        headline=headline(report),
        networks=network_rows(report),
        error_text=error_text(report),
        baselines=baseline_rows(report),
        baseline_headings=baseline_headings(report),
        metric_terms=explained(shown_metrics(report)),
        search_terms=explained(name for entry in report.get("searches") or [] for name in entry.get("objectives") or {}),
        answers=answer_section(report),
        latency=latency_rows(report),
        latency_text=latency_text(report),
        verdict=verdict(report),
        trained=trained_behind(report),
        caveats=caveats(report),
        lacking=lacking_text(report),
        kept_epochs=kept_text(report),
        files_text=files_text(report),
        units=given_and_kept(report),
        pictures=pictures,
        sections=SECTIONS,
        searches=[search_row(entry, report) for entry in report.get("searches") or []],
        finalists=[
            (str(entry.get("stage", "search")), *found)
            for entry in report.get("searches") or []
            if (found := finalist_table(entry, report)) is not None
        ],
        trials=[rows for entry in report.get("searches") or [] if (rows := trial_table(entry, report)) is not None],
        asynchronous=[str(entry.get("stage")) for entry in report.get("searches") or [] if entry.get("asynchronous")],
        sparsifiers=[_sparsifier(entry) for entry in report.get("sparsifiers") or []],
        omegas=[
            (str(entry.get("stage", "search")), entry["omega"]["text"])
            for entry in report.get("searches") or []
            if entry.get("omega")
        ],
        sensitivity=[sensitivity_tables(entry) for entry in report.get("searches") or [] if entry.get("sensitivity")],
        programs=[row for entry in report.get("searches") or [] for row in program_rows(entry)],
        stages=stage_rows(report),
        whole_cost=whole_cost(report),
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
    return {"name": path.parent.name, "seed": None, **with_verdicts(report)}


def fill_template(name: str, **content: Any) -> str:
    """Return a template of this package with its content, and the script of all pages, filled in; texts are escaped."""
    return _templates().get_template(name).render(**_of_all_pages(), **content)


@cache
def _of_all_pages() -> dict[str, str]:
    """Return the one script that browsers let a page run, with its hash, and the icon."""
    script = Path(__file__).with_name("templates").joinpath("report.js").read_text()
    return {
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "favicon": base64.b64encode(_FAVICON.encode()).decode(),
    }


@cache
def _templates() -> Environment:
    """Return the templates of this package, each compiled when it is asked for first."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_unbroken,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _unbroken(value: Any) -> Any:
    """Return a text of the page with its figures in one piece; what is markup already is left alone."""
    return unbroken(value) if type(value) is str else value


def _sparsifier(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the schedule and the table of shares of a stage that trained with a sparsifier."""
    rows = [
        Row(one["name"], (str(one["channels"]), _share(one["asked"]), _share(one["reached"])))
        for one in entry.get("shares") or []
    ]
    return {"stage": str(entry.get("stage", "")), "text": (entry.get("schedule") or {}).get("text", ""), "rows": rows}


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


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
            network_words(role, report),
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
