"""Events say themselves whether they finish a job, and what the log shows of them."""

from __future__ import annotations

import pytest

from search.executors.base import Event, Idle, Lost, Notice, Result, Saved
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate

TRIAL = Trial(3, Proposal(Candidate({"first": "10"})), "complete", {"macs": 1.0})
LOST = "trial 3: its worker was lost (out of memory), 2 so far; evaluated again"


@pytest.mark.parametrize(
    ("event", "finished", "line"),
    [
        (Result(TRIAL), TRIAL, ""),
        (Saved(3), None, ""),
        (Lost(3, 2, "out of memory"), None, LOST),
        (Notice("4 of 4 workers ready"), None, "4 of 4 workers ready"),
        (Idle(), None, ""),
    ],
)
def test_only_a_result_finishes_and_only_losses_and_notices_are_logged(event: Event, finished: Trial | None, line: str) -> None:
    assert event.finished is finished
    assert event.line == line
