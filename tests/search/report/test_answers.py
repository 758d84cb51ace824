"""The section on answers, the picture by blocks, and what both compare."""

from __future__ import annotations

import base64
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from search.output.unbroken import unbroken
from search.report.answers import MOST_CLASSES, answer_section, class_rows, picture_source
from search.report.compared import compared_answers, compared_modules
from search.report.figures.blocks import MOST_BLOCKS, Blocks, blocks
from search.report.files import files_text
from search.report.page import render
from tests.search.report.report_sample import sample, write_run

PICTURE = {"height": 1, "width": 2, "channels": 3, "data": base64.b64encode(bytes([1, 2, 3, 4, 5, 6])).decode()}


def compared(**changes: Any) -> dict[str, Any]:
    row = {"index": 2, "label": 1, "before": 1, "after": 0, "picture": PICTURE}
    before = {"labels": [0, 0, 1, 1, 1], "guesses": [0, 1, 1, 0, 2], "samples": []}
    after = {"labels": [0, 0, 1, 1, 1], "guesses": [0, 0, 0, 0, 0], "samples": [row], **changes}
    found = compared_answers(before, after)
    return {} if found is None else found


def test_answers_before_and_after_are_counted_by_change_by_class_and_by_confusion() -> None:
    found = compared()
    assert (found["became_wrong"], found["became_right"], found["other"]) == (1, 1, 1)
    assert found["classes"] == [
        {"label": 0, "samples": 2, "before": 1, "after": 2},
        {"label": 1, "samples": 3, "before": 1, "after": 0},
    ]
    assert found["confusions"][0] == {"label": 1, "guess": 0, "before": 1, "after": 3}
    same = compared(guesses=[0, 1, 1, 0, 2])
    assert same["confusions"] == [], "only those whose number changed"
    assert compared(labels=[0, 0, 1, 1, 0]) == {}
    assert compared_answers(None, {"labels": []}) is None


@pytest.mark.usefixtures("no_pictures")
def test_the_section_shows_classes_confusions_and_samples_with_their_pictures(tmp_path: Path) -> None:
    page = render(write_run(tmp_path, {**sample(trials=10), "answers": compared()})).read_text()
    for text in ("Of 5 test samples 1 were right before and are wrong now, 1 the other way round", "1 taken for 0", "+2"):
        assert text in page, text
    assert "sample 2, class 1: 1 before, 0 now" in page
    assert page.count("data:image/png;base64,") == 1
    assert "Which answers changed" not in render(write_run(tmp_path, sample(trials=10))).read_text()


@pytest.mark.usefixtures("no_pictures")
def test_classes_that_have_names_are_shown_by_them(tmp_path: Path) -> None:
    found = compared(names=["ant", "<b>bee</b>", "fly"])
    assert found["names"] == ["ant", "<b>bee</b>", "fly"]
    page = render(write_run(tmp_path, {**sample(trials=10), "answers": found})).read_text()
    for text in (
        "&lt;b&gt;bee&lt;/b&gt; taken for ant",
        "sample 2, class &lt;b&gt;bee&lt;/b&gt;: &lt;b&gt;bee&lt;/b&gt; before, ant now",
    ):
        assert text in page, text
    assert "<b>bee</b>" not in page
    section = answer_section({"answers": {**found, "names": ["ant"]}})
    assert section is not None
    assert [row.name for row in section["classes"]] == ["ant", "1"]


@pytest.mark.usefixtures("no_pictures")
def test_the_files_stand_with_their_own_sizes(tmp_path: Path) -> None:
    files = {"weights.safetensors": 1000, "model.onnx": 2500}
    page = render(write_run(tmp_path, {**sample(trials=10), "files": files})).read_text()
    assert unbroken("Files on disk: weights.safetensors 1 kB, model.onnx 2.5 kB.") in page
    assert files_text({"files": {"weights.safetensors": 1000}}) == files_text({"files": None}) == ""
    assert "such as whole bytes" in files_text({"files": files, "bits": [{"name": "conv"}]})


def test_of_many_classes_those_that_changed_most_are_shown_in_order() -> None:
    classes = [{"label": label, "samples": 10, "before": 10, "after": 10 - label % 11} for label in range(100)]
    rows = class_rows(classes)
    assert len(rows) == MOST_CLASSES
    assert [int(row.name) for row in rows] == sorted(int(row.name) for row in rows)
    assert rows[0].cells == ("10", "100.0 %", "30.0 %", "-70.00 points")
    section = answer_section({"answers": {**compared(), "classes": classes}})
    assert section is not None
    assert section["left_out"] == 100 - MOST_CLASSES


def test_a_picture_is_a_png_of_its_bytes() -> None:
    png = base64.b64decode(picture_source(PICTURE).partition(",")[2])
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack(">II", png[16:24]) == (2, 1)
    start = png.index(b"IDAT") + 4
    (length,) = struct.unpack(">I", png[start - 8 : start - 4])
    assert zlib.decompress(png[start : start + length]) == bytes([0, 1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    "change", [{"data": "*"}, {"data": ""}, {"height": 10**9}, {"width": -1}, {"channels": 2}, {"height": "1"}, {"width": None}]
)
def test_a_damaged_picture_is_left_out(change: dict[str, Any]) -> None:
    assert picture_source({**PICTURE, **change}) == ""
    assert picture_source(None) == ""


def test_modules_are_put_together_into_a_few_blocks() -> None:
    names = [f"stage{stage}.{block}.conv{layer}" for stage in range(3) for block in range(3) for layer in (1, 2)]
    found = blocks([(name, 2.0, 1.0) for name in names])
    assert found[0] == ("stage0.0", 4.0, 2.0)
    assert len(found) == 9
    many = blocks([(f"layer{place}", 1.0, 0.5) for place in range(100)])
    assert len(many) <= MOST_BLOCKS
    assert many[0][0] == "layer0 to layer7"
    assert sum(after for _, _, after in many) == 50.0


def test_the_picture_by_blocks_is_of_costs_that_changed() -> None:
    modules = compared_modules({"a": 10, "b": 30}, {"a": 10, "b": 10})
    assert [*modules] == [{"name": "a", "before": 10, "after": 10}, {"name": "b", "before": 30, "after": 10}]
    (drawing,) = Blocks().draw({"modules": modules})
    assert drawing.canvas.axes[0].get_title() == "MACs by block: 50.0 % of 40 left"
    assert ["b: MACs 30 before, 10 after"] in drawing.tips.values()
    assert not Blocks().applies({"modules": compared_modules({"a": 10}, {"a": 10})})
    assert compared_modules(None, {"a": 1}) == []
    bits = [{"name": "a", "weight_bits": 4, "weights": 1000}]
    (drawing,) = Blocks().draw({"bits": bits})
    assert drawing.canvas.axes[0].get_title() == "size by block: 12.5 % of 4 kB left"
