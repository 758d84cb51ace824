"""A run tells its trackers what happens, once, and no tracker can end it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from search.config import load
from search.pipeline import run
from search.stages.retrain import Retrain
from tests.integration.tiny_pipeline import SHORT, write_config
from tests.search.tracking.recorder import EVENTS

pytestmark = pytest.mark.usefixtures("no_pictures_in_module")
OWN = "tests.search.tracking.recorder"


class Kill(BaseException):
    pass


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, no_pictures_in_module: None) -> Iterator[tuple[list[Any], str, Any]]:
    """Return the events of a run that is stopped before its last stage and goes on, its log, and its report."""
    folder = tmp_path_factory.mktemp("followed")
    trackers = f"[{{{OWN}.Failing: {{}}}}, {{{OWN}.Recorder: {{}}}}]"
    config = load(write_config(folder, SHORT), [f"execution.trackers={trackers}"])

    def stop(self: Any, network: Any, stage_run: Any) -> Any:
        raise Kill

    EVENTS.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Retrain, "run", stop)
        with pytest.raises(Kill):
            run(config, folder / "tiny")
    report = run(config, folder / "tiny")
    yield list(EVENTS), (folder / "tiny" / "log.txt").read_text(), report
    EVENTS.clear()


def of_recorder(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event[0] == kind]


def test_events_come_in_order_and_once(followed: tuple[list[Any], str, Any]) -> None:
    events, _, _ = followed
    epochs = [(label, number) for _, label, number, _ in of_recorder(events, "epoch")]
    assert epochs == [("0-train", 1), ("0-train", 2), ("2-retrain", 1)]
    trials = [number for _, label, number, _ in of_recorder(events, "trial") if label == "1-search"]
    assert trials == list(range(len(trials)))
    assert len(trials) >= 6
    kinds = [event[0] for event in events]
    assert kinds.index("epoch") < kinds.index("trial") < kinds.index("result")


def test_a_stopped_run_is_closed_as_one_that_failed_and_goes_on_under_its_identifier(
    followed: tuple[list[Any], str, Any],
) -> None:
    events, _, _ = followed
    begun = of_recorder(events, "begin")
    assert [resumed for _, _, _, resumed, _ in begun] == [False, False, True, True]
    assert len({identifier for _, _, identifier, _, _ in begun}) == 1
    # The one that failed is closed no more in the part in which it failed.
    assert of_recorder(events, "close") == [("close", True), ("close", False)]


def test_values_are_those_of_the_report(followed: tuple[list[Any], str, Any]) -> None:
    events, _, report = followed
    ((_, values, files),) = of_recorder(events, "result")
    assert values["top1"] == report["result"]["top1"]
    assert values["reference/macs"] == report["reference"]["macs"]
    assert {"report.json", "weights.safetensors"} <= set(files)
    last = of_recorder(events, "epoch")[-1][3]
    assert set(last) == {"loss", "top1", "lr"}
    assert all("macs" in event[3] and "top1" in event[3] for event in of_recorder(events, "trial"))


def test_a_tracker_that_fails_is_told_no_more_and_the_run_goes_on(followed: tuple[list[Any], str, Any]) -> None:
    _, log, report = followed
    assert log.count("the tracker Failing failed, and is told no more of this run: OSError: the server is gone") == 2
    assert report["result"]["macs"] < report["reference"]["macs"]
