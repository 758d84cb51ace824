"""Runs side by side on one page."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from search.cli import app
from search.output.unbroken import NO_BREAK
from search.report.comparison import compare
from spaces.errors import SecateursError
from tests.search.report.report_sample import sample, write_run


def test_results_targets_fronts_and_settings_that_differ_stand_on_one_page(tmp_path: Path) -> None:
    for name, epochs, extra in (("a", 3, ""), ("<b>", 5, "  - export: {formats: [onnx]}\n")):
        report = {**sample(trials=30), "targets": {"macs": {"text": "<= 40%", "limit": 12.4e6, "met": name == "a"}}}
        folder = write_run(tmp_path / name, report)
        text = f"name: {name!r}\nseed: 0\nstages:\n  - train: {{epochs: {epochs}}}\n{extra}"
        (folder / "config.yaml").write_text(text)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    output = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / "<b>"), "-o", str(output)])
    assert done.exit_code == 0, done.output
    page = output.read_text().replace(NO_BREAK, " ")
    rows = [re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", row) for row in re.findall(r"<tr>(.*)</tr>", page)]
    assert ["stages.train.epochs", "3", "5"] in rows
    assert ["stages.export", "-", "{formats: [onnx]}"] in rows
    assert "93.61 %" in page
    assert "NOT met" in [row[-1] for row in rows]
    assert "delivered" in page
    assert "<b>" not in page
    assert "&lt;b&gt;" in page
    assert {path: path.read_bytes() for path in before} == before


def test_one_run_or_a_folder_without_a_report_is_refused(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", sample(trials=10))
    for folders in ([folder], [folder, folder], [folder, tmp_path / "none"]):
        with pytest.raises(SecateursError):
            compare(folders, tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
