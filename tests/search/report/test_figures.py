"""A figure is one file and one line: the page and figures/ show whatever is registered, in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from search.report.figures import FIGURES
from search.report.figures.base import Drawing, Figure
from search.report.figures.front import Front
from search.report.figures.pictures import render_drawing
from search.report.figures.progress import Progress
from search.report.figures.sensitivity import Sensitivity
from search.report.figures.style import new_figure
from search.report.figures.testing import check_figure
from search.report.figures.training import Training
from search.report.page import render
from spaces.registry import resolve
from tests.search.report.report_sample import full_sample, sample, write_run


class Seconds(Figure):
    """The seconds of every stage."""

    name = "seconds"
    title = "Seconds per stage"

    def applies(self, report: Mapping[str, Any]) -> bool:
        return bool(report.get("stages"))

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        canvas = new_figure()
        canvas.add_subplot().bar(
            [stage["name"] for stage in report["stages"]], [stage["seconds"] for stage in report["stages"]]
        )
        yield Drawing(canvas)


class TimeOfSearch(Seconds):
    """The same, in the section of the search."""

    name = "time_of_search"
    section = "search"


class Unsteady(Seconds):
    """Another drawing each time."""

    drawn = 0

    def draw(self, report: Mapping[str, Any]) -> Iterator[Drawing]:
        type(self).drawn += 1
        canvas = new_figure()
        canvas.add_subplot().plot([0, self.drawn])
        yield Drawing(canvas)


class Always(Seconds):
    """Applies to a report without data."""

    def applies(self, report: Mapping[str, Any]) -> bool:
        return True


@pytest.mark.usefixtures("blank_pictures")
def test_a_new_figure_is_drawn_and_shown_without_another_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path, sample(trials=24))
    before = render(tmp_path).read_text()
    for figure in (Seconds, TimeOfSearch):
        monkeypatch.setitem(FIGURES, figure.name, f"{__name__}:{figure.__name__}")
    page = render(tmp_path).read_text()
    assert page.count("<svg") == before.count("<svg") + 2
    assert page.count("<h2>Seconds per stage</h2>") == 1
    search, own = page.index('aria-label="Seconds per stage"'), page.index("<h2>Seconds per stage</h2>")
    assert page.index("<h2>The search</h2>") < search < page.index("<h2>What was kept</h2>") < own
    assert {"seconds.png", "time_of_search.png"} < {path.name for path in (tmp_path / "figures").iterdir()}


def test_the_kit_passes_a_right_figure_and_names_what_is_wrong_with_another() -> None:
    reports = [sample(trials=24)]
    check_figure(Seconds, reports)
    with pytest.raises(AssertionError, match="the same drawing"):
        check_figure(Unsteady, reports)
    with pytest.raises(AssertionError, match="False for a report without data"):
        check_figure(Always, reports)
    with pytest.raises(AssertionError, match="a report that the figure applies to among"):
        check_figure(Seconds, [{}])


def test_no_legend_lies_over_the_axes_and_ticks_are_whole_epochs() -> None:
    report = {**sample(trials=24), "baseline_histories": [{**sample()["histories"][-1], "variant": "uniform"}]}
    for figure in (Front(), Progress(), Training()):
        for drawing in figure.draw(report):
            canvas = drawing.canvas
            canvas.draw_without_rendering()
            (legend,) = canvas.legends
            area = legend.get_window_extent()
            for axes in canvas.axes:
                assert axes.get_legend() is None
                assert not axes.get_window_extent().overlaps(area)
            if not isinstance(figure, Front):
                ticks = canvas.axes[0].get_xticks()
                assert [*ticks] == [round(tick) for tick in ticks]


def test_the_trainings_of_baselines_are_drawn_where_those_of_the_result_are() -> None:
    report = sample(trials=24)
    epochs = report["histories"][-1]["epochs"]
    report["baseline_histories"] = [{"stage": "3-retrain", "variant": "uniform", "epochs": epochs}]
    (drawing,) = Training().draw(report)
    lines = {line.get_label(): line for line in drawing.canvas.axes[1].get_lines()}
    before = sum(len(history["epochs"]) for history in report["histories"][:-1])
    assert [*lines["uniform ratio, search split"].get_xdata()] == [before + 1 + index for index in range(len(epochs))]


def test_a_search_of_one_candidate_has_no_figure() -> None:
    report = sample(trials=24)
    report["searches"][0]["trials"] = report["searches"][0]["trials"][:1]
    assert not Front().applies(report)
    assert not Progress().applies(report)


def test_powers_of_ten_are_numbers() -> None:
    (drawing,) = Sensitivity().draw(full_sample())
    assert "mathdefault" not in render_drawing(Sensitivity(), drawing).svg


def of_whole_shares() -> dict[str, Any]:
    """Return a report whose scores, and what is kept, lie at 100 % and at 0 %."""
    report = full_sample()
    for network in (report["reference"], report["result"], *report["baselines"].values()):
        network["standard_errors"] = {"top1": 0.02}
    report["reference"]["top1"], report["result"]["top1"], report["baselines"]["random"]["top1"] = 1.0, 0.995, 0.0
    trials = report["searches"][0]["trials"]
    trials[0]["metrics"] |= {"top1": 1.0, "macs": report["reference"]["macs"]}
    trials[3]["metrics"]["top1"] = 0.0
    for one, score in zip(report["resolved"], (0.0, 0.9, 1.0), strict=True):
        one["result"] |= {"top1": score, "standard_errors": {"top1": 0.03}}
    report["resolved"][2]["result"]["macs"] = report["reference"]["macs"]
    for history in report["histories"]:
        history["epochs"][-1]["search_score"] = 1.0
    report["retention"]["result"]["layers"][0] |= {"chosen": 1.0, "retained": 1.0}
    report["depth"] = [{"name": "a", "macs_share": 1.0, "kept": False}, {"name": "b", "macs_share": 0.0, "kept": True}]
    return report


def test_no_axis_of_shares_goes_beyond_the_whole() -> None:
    report, seen = of_whole_shares(), set()
    for name, figure in ((name, resolve(path)()) for name, path in FIGURES.items()):
        for drawing in figure.draw(report) if figure.applies(report) else ():
            for axes in drawing.canvas.axes:
                ends = {axes.get_xlabel(): axes.get_xlim(), axes.get_ylabel(): axes.get_ylim()}
                for label, (low, high) in ends.items():
                    if "%" in label:
                        seen.add(name)
                        assert 0.0 <= low < high <= 100.0, (name, label)
                bars = [segment for bar in axes.collections for segment in bar.get_segments()] if name == "resolved" else []
                assert all(-1e-9 <= y <= 100.0 + 1e-9 for segment in bars for _, y in segment)
    assert seen >= {"result", "front", "progress", "resolved", "training", "retention", "depth"}


def test_an_axis_of_a_cost_above_the_reference_s_shows_it() -> None:
    report = of_whole_shares()
    report["searches"][0]["trials"][6]["metrics"]["macs"] = 1.2 * report["reference"]["macs"]
    (drawing,) = Front().draw(report)
    assert drawing.canvas.axes[0].get_xlim()[1] > 120.0
    assert drawing.canvas.axes[0].get_ylim()[1] <= 100.0
