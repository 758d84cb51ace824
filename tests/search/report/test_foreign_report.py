"""Reports that are damaged or come from somebody else: shown as text or refused by name, nothing written elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.output.file_names import safe_file_name
from search.report.page import ReportError, render
from tests.paths import REPOSITORY


def changed(folder: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a run folder with one thing in its report.json changed."""
    shutil.copytree(REPOSITORY / "tests" / "golden" / "before_the_moves", folder)
    path = folder / "report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    return folder


def search(**fields: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda report: report["searches"][0].update(fields)


@pytest.mark.usefixtures("blank_pictures")
def test_names_stay_file_names(tmp_path: Path) -> None:
    home = str(tmp_path)[1:]
    names = ["../" * 12 + f"{home}/ESCAPED", f"/{home}/ESCAPED", "..", "a/b", "a\0b", "ü" * 300, "\n", "last"]

    def change(report: dict[str, Any]) -> None:
        search = {**report["searches"][0], "trials": report["searches"][0]["trials"][:3]}
        report.update(searches=[{**search, "stage": name} for name in names], histories=[], layers=[])

    folder = changed(tmp_path / "home" / "run", change)
    render(folder)
    assert sorted(entry.name for entry in tmp_path.rglob("*.png") if entry.parent != folder / "figures") == []
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]
    assert len(list((folder / "figures").glob("front*.png"))) == len(names)


def test_safe_names() -> None:
    assert safe_file_name("front_2-search.x") == "front_2-search.x"
    changed_names = {safe_file_name(name) for name in ("a/b", "a_b", "a\\b", "", ".", "..", ".a", "a" * 200, "a" * 201)}
    assert len(changed_names) == 9
    assert all(name.strip(".") and "/" not in name and len(name) < 120 for name in changed_names)


def test_figures_that_lead_out_of_the_folder_are_not_written(tmp_path: Path) -> None:
    folder = changed(tmp_path / "run", lambda report: report.update(searches=[], histories=[]))
    (tmp_path / "elsewhere").mkdir()
    (folder / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ReportError, match="link out of the run folder"):
        render(folder)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.usefixtures("no_pictures")
def test_a_linked_file_is_not_copied_into_the_page(tmp_path: Path) -> None:
    folder = changed(tmp_path / "run", lambda report: None)
    (tmp_path / "secret").write_text("Hunter2")
    for name in ("config.yaml", "environment.json"):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "secret")
    assert "Hunter2" not in render(folder).read_text()


def test_text_is_shown_as_it_is(tmp_path: Path) -> None:
    texts = [r"$\frac{$", "$x$", "$", r"\undefined", "<script>alert(1)</script>", "{{ 7 * 7 }}"]

    def change(report: dict[str, Any]) -> None:
        report["name"] = texts[0]
        search = {**report["searches"][0], "trials": report["searches"][0]["trials"][:3]}
        report["searches"] = [{**search, "stage": text} for text in (texts[0], texts[4])]
        for section, key in (("layers", "name"), ("histories", "stage")):
            report[section] = [{**report[section][0], key: text} for text in texts]

    page = render(changed(tmp_path / "run", change)).read_text()
    assert "<script>alert" not in page
    for text in texts:
        assert text.replace("<", "&lt;").replace(">", "&gt;") in page, text


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (lambda report: report.update(result=[1]), "result"),
        (lambda report: report.update(baseline="x"), "reference"),
        (lambda report: report.update(name=3), "name"),
        (lambda report: report.update(searches={}), "searches"),
        (lambda report: report.update(searches=[3]), r"searches\[0\]"),
        (lambda report: report.update(yardsticks=[]), "baselines"),
        (lambda report: report.update(layers=[{"name": "x", "channels": 0, "kept": 0}]), r"layers\[0\]\.channels"),
        (lambda report: report.update(layers=[{"name": "x", "channels": "8", "kept": 1}]), r"layers\[0\]\.channels"),
        (lambda report: report.update(layers=[{"name": "x", "channels": 8, "kept": -1}]), r"layers\[0\]\.kept"),
        (lambda report: report.update(layers=[{}]), "layers"),
        (
            lambda report: report.update(participation=[{"stage": "x", "layers": [], "steps": [], "values": []}]),
            "participation",
        ),
        (lambda report: report.update(latency={"networks": {"result": {"median": "x"}}}), r"latency\.networks\.result"),
        (lambda report: report.update(remarks="x"), "remarks"),
        (lambda report: report.update(equivalence_max_abs_error="x"), "equivalence_max_abs_error"),
        (lambda report: report["result"].update(macs="many"), r"result\.macs"),
        (lambda report: report["result"].update(macs=-1), r"result\.macs"),
        (search(trials=[{"metrics": {"top1": "x"}}]), r"trials\[0\]\.metrics\.top1"),
        (search(trials=[{"trial": "x"}]), r"trials\[0\]\.trial"),
        (search(stage=[]), r"searches\[0\]\.stage"),
        (search(sensitivity={}), "sensitivity"),
    ],
)
def test_a_wrong_type_is_named(change: Callable[[dict[str, Any]], Any], field: str, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=rf"report\.json: .*{field}.*, got "):
        render(changed(tmp_path / "run", change))


@pytest.mark.parametrize("content", ["", "{", "null", "[]", "[" * 100_000, '{"x": NaN}', '{"x": 1e999}'])
def test_a_damaged_report_is_named(content: str, tmp_path: Path) -> None:
    folder = changed(tmp_path / "run", lambda report: None)
    (folder / "report.json").write_text(content)
    with pytest.raises(ReportError, match=r"report\.json"):
        render(folder)


def test_an_empty_report_is_shown(tmp_path: Path) -> None:
    assert "run" in render(changed(tmp_path / "run", lambda report: report.clear())).read_text()


@pytest.mark.usefixtures("no_pictures")
def test_a_report_of_an_earlier_version_says_what_it_lacks_and_its_targets_are_judged(tmp_path: Path) -> None:
    page = render(changed(tmp_path / "run", lambda report: None)).read_text()
    assert "written by an earlier version, and has nothing on which answers changed, costs by block" in page
    assert "target met" in page
    assert "MACs &lt;=" in page
