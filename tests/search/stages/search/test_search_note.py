import re
from pathlib import Path

import pytest
from rich.console import Console

from search.output import progress
from search.output.numbers import metric_value
from search.output.progress import Log
from search.stages.search.search_note import SearchNote
from search.study.problem import Objective, Problem
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from tests.search.small_space import MaskSpace, small_problem


def trial(number: int, top1: float, macs: float, state: str = "complete", fidelity: float = 1.0) -> Trial:
    proposal = Proposal(Candidate({"first": "1100", "second": f"{number + 1:06b}"}), fidelity)
    if state == "failed":
        return Trial(number, proposal, "failed", {}, 30.0, "RuntimeError: no")
    return Trial(number, proposal, "complete", {"top1": top1, "macs": macs}, 30.0)


def test_it_tells_the_best_the_cost_the_failures_and_the_workers() -> None:
    note = SearchNote(small_problem())
    trials = [trial(0, 0.5, 5.0), trial(1, 0.9, 60_000.0), trial(2, 0.0, 0.0, "failed"), trial(3, 0.75, 6.0)]
    assert note.text([], busy=2, workers=4) == "2/4 workers busy"
    assert note.text(trials[:1], 1, 2) == "best top1 0.5 macs 5, 30 s of trials, 1/2 workers busy"
    assert note.text(trials) == "best top1 0.75 macs 6, 1 failed, 2 min 00 s of trials"


def test_a_best_above_the_target_is_told_and_short_measurements_do_not_count() -> None:
    note = SearchNote(small_problem())
    assert note.text([trial(0, 0.9, 60_000.0)]) == "best top1 0.9 macs 60 k (target not met yet), 30 s of trials"
    assert note.text([trial(0, 0.9, 60_000.0), trial(1, 0.99, 4.0, fidelity=0.5)]).startswith("best top1 0.9 macs 60 k")


def test_every_trial_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []

    class Counting(MaskSpace):
        def costs(self, candidate: Candidate) -> dict[str, float]:
            looked.append(candidate)
            return super().costs(candidate)

    problem = Problem(Counting(), [Objective("top1", "maximize")], small_problem().targets, {})
    note, trials = SearchNote(problem), [trial(number, number / 100, 5.0) for number in range(50)]
    for count in range(1, 51):
        text = note.text(trials[:count])
    assert text.startswith("best top1 0.49 macs 5")
    assert len(looked) == 50


def test_a_time_budget_has_an_eta_before_the_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with Log(None, None).bar("search", None, seconds_left=lambda: 90.0 - now) as bar:
        bar.update(0)
        assert bar.eta == "ETA 1 min 30 s"
        now = 100.0
        assert bar.eta == "ETA 0.0 s"
    with Log(None, None).bar("search", 100, seconds_left=lambda: 50.0) as bar:
        bar.update(0)
        now = 110.0
        bar.update(50)
        assert bar.eta == "ETA 10 s"


def test_a_terminal_shows_one_live_line(tmp_path: Path) -> None:
    with (tmp_path / "shown").open("w") as file:
        console = Console(file=file, force_terminal=True, width=160)
        with Log(tmp_path / "log.txt", console) as log, log.bar("2-search", 4) as bar:
            note, trials = SearchNote(small_problem()), [trial(number, number / 10, 5.0) for number in range(4)]
            for count in range(1, 5):
                bar.update(count, note.text(trials[:count], busy=2, workers=2))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", (tmp_path / "shown").read_text())
    last = next(line for line in reversed(re.split(r"[\r\n]", shown)) if "4/4" in line)
    assert "best top1 0.3 macs 5" in last
    assert "2/2 workers busy" in last


def test_values() -> None:
    assert [metric_value(*pair) for pair in (("size_bytes", 77_900.0), ("macs", 357_000.0), ("top1", 0.98765))] == [
        "77.9 kB",
        "357 k",
        "0.9877",
    ]
