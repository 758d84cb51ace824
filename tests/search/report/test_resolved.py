"""Several budgets of one search in a report: the table, and the front."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.output.unbroken import NO_BREAK
from search.report.page import render
from search.report.resolved import resolved_points, resolved_rows
from tests.search.report.report_sample import network, sample, write_run


def report(**targets: Any) -> dict[str, Any]:
    runs = [
        {
            "name": f"r-{share}",
            "target": {"macs": f"<= {share}%"},
            "targets": targets or {"macs": {"text": f"<= {share}%", "limit": share * 1e4, "met": share != 30}},
            "target_met": share != 30,
            "reference": network(0.93, 1e6),
            "result": {**network(top1, share * 1e4), "standard_errors": {"top1": 0.003}},
        }
        for share, top1 in ((10, 0.85), (20, 0.91), (30, 0.90), (40, 0.91))
    ]
    return {**sample(20), "resolved": runs}


def test_what_another_one_beats_is_not_on_the_front() -> None:
    assert [point.on_front for point in resolved_points(report())] == [True, True, False, False]


def test_a_row_tells_the_budget_its_score_with_its_error_and_whether_it_is_met() -> None:
    rows = resolved_rows(report())
    assert rows[1].name == "r-20"
    assert rows[1].cells == ("macs <= 20%", "200 k", "20.0 %", "91.00 ± 0.30 %", "-2.00 points", "yes", "yes")
    assert rows[2].cells[-2:] == ("NO", "no")
    assert resolved_rows(sample(20)) == []


def test_networks_without_a_score_are_in_the_table_alone() -> None:
    found = report()
    found["resolved"][0]["result"] = network(None, 1e5, 0.3) | {"loss": None}
    assert [point.name for point in resolved_points(found)] == ["r-20", "r-30", "r-40"]
    assert resolved_rows(found)[0].cells[3:] == ("-", "-", "yes", "-")


@pytest.mark.usefixtures("no_pictures")
def test_the_page_has_them(tmp_path: Path) -> None:
    write_run(tmp_path, report())
    page = render(tmp_path).read_text().replace(NO_BREAK, " ")
    assert "<h2>Budgets</h2>" in page
    assert "91.00 ± 0.30 %" in page
