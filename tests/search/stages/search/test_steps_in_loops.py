"""Steps in the search loops: evaluated and told, a generation recorded as one trial, and replayed without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from search.algorithms.evolution import Evolution, EvolutionSettings
from search.executors.base import Job, Result
from search.executors.trial_checkpoints import TrialCheckpoints
from search.output.progress import Log
from search.run.stage_run import Stopwatch
from search.stages.search.asynchronous_loop import AsynchronousLoop
from search.stages.search.batch_loop import BatchLoop
from search.stages.search.loop import SearchFailedError
from search.stages.search.search_note import SearchNote
from search.stages.search.settings import BudgetSettings
from search.study.storage import open_journal
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.errors import SecateursError
from tests.search.algorithms.synthetic_space import SyntheticSpace, problem_of
from tests.search.stages.search.test_loop import Kill, Measuring

PROBLEM = problem_of(SyntheticSpace([6, 8, 8]), 0.5)
SETTINGS = EvolutionSettings(children=5, generations=4, steps=((8, 2), (16, 1)))


class Scoring(Measuring):
    """Measures by a formula of candidate and step, and notes what it has measured."""

    def _events(self):  # type: ignore[no-untyped-def]
        while self.jobs:
            job = self.jobs.pop(-1 if self.reverse else 0)
            if len(self.measured) == self.kill:
                raise Kill
            self.measured.append(job.number)
            if self.fails(len(self.measured)):
                yield Result(Trial(job.number, job.proposal, "failed", {}, 1.0, "RuntimeError: broken"))
                continue
            seed = 0 if job.proposal.step is None else job.proposal.step.seed
            score = (int(job.proposal.candidate.fingerprint, 16) + seed) % 1000 / 1000
            metrics = {"top1": score, **PROBLEM.space.costs(job.proposal.candidate)}
            yield Result(Trial(job.number, job.proposal, "complete", metrics, 1.0))


def search(folder: Path, executor: Measuring | None = None, loop_class: Any = BatchLoop, **options: Any) -> list[Trial]:
    folder.mkdir(exist_ok=True)
    algorithm = options.pop("algorithm", None) or Evolution(PROBLEM, SETTINGS, 0)
    with Log(None, None).bar("search", None) as bar:
        return list(
            loop_class(
                algorithm=algorithm,
                study=Study(open_journal(folder / "study"), "r/0-search", PROBLEM),
                executor=executor or Scoring(),
                checkpoints=TrialCheckpoints(folder / "trials"),
                budget=options.pop("budget", BudgetSettings()),
                batch=3,
                stopwatch=Stopwatch(folder / "seconds.json"),
                bar=bar,
                note=SearchNote(PROBLEM, algorithm.incumbent),
                log=options.pop("log", lambda text, level: None),
                on_batch=options.pop("on_batch", lambda trials: None),
            ).run()
        )


def test_a_generation_is_one_trial_with_the_seconds_of_its_steps(tmp_path: Path) -> None:
    executor = Scoring()
    trials = search(tmp_path, executor)
    assert [trial.number for trial in trials] == list(range(6))
    assert [trial.proposal.notes["kind"] for trial in trials] == ["start", *["generation"] * 4, "guard"]
    measured = [sum(len(step["candidates"]) for step in trial.proposal.notes["steps"]) for trial in trials]
    assert [trial.seconds for trial in trials] == measured
    assert len(executor.measured) == sum(measured)
    assert Study(open_journal(tmp_path / "study"), "r/0-search", PROBLEM).trials() == trials


@pytest.mark.parametrize("loop_class", [BatchLoop, AsynchronousLoop])
def test_killed_at_any_job_it_ends_alike_and_repeats_one_generation_at_most(tmp_path: Path, loop_class: Any) -> None:
    executor = Scoring()
    whole = search(tmp_path / "whole", executor, loop_class)
    jobs, largest = len(executor.measured), max(int(trial.seconds) for trial in whole)
    for kill in range(1, jobs, 3):
        folder, rest = tmp_path / str(kill), Scoring()
        with pytest.raises(Kill):
            search(folder, Scoring(kill=kill), loop_class)
        assert search(folder, rest, loop_class) == whole
        assert jobs - kill <= len(rest.measured) <= jobs - kill + largest


def test_neither_order_nor_number_of_workers_changes_anything(tmp_path: Path) -> None:
    whole = search(tmp_path / "a")
    assert search(tmp_path / "b", Scoring(reverse=True, places=3)) == whole
    assert search(tmp_path / "c", Scoring(reverse=True, places=4), AsynchronousLoop) == whole


@pytest.mark.parametrize("loop_class", [BatchLoop, AsynchronousLoop])
def test_the_best_is_kept_before_the_next_generation_is_evaluated(tmp_path: Path, loop_class: Any) -> None:
    kept: list[int] = []
    search(tmp_path, loop_class=loop_class, on_batch=lambda trials: kept.append(len(trials)))
    assert kept == list(range(1, 7)) if loop_class is BatchLoop else kept[-1] == 6


def test_a_finished_search_evaluates_nothing_again(tmp_path: Path) -> None:
    whole, executor = search(tmp_path), Scoring()
    assert search(tmp_path, executor) == whole
    assert executor.measured == []


def test_failed_children_are_told_once_and_starting_points_that_fail_end_the_search(tmp_path: Path) -> None:
    lines: list[str] = []
    trials = search(tmp_path / "a", Scoring(lambda count: count % 4 == 0), log=lambda text, level: lines.append(text))
    assert len(trials) == 6
    assert len(lines) == 1
    assert "RuntimeError: broken" in lines[0]
    with pytest.raises(SearchFailedError, match="RuntimeError: broken"):
        search(tmp_path / "b", Scoring(lambda count: True))


def test_time_counts_inside_a_generation_and_what_is_not_recorded_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text('{"seconds": 99.9}')
    trials = search(tmp_path, budget=BudgetSettings(seconds=99.90001))
    assert [trial.proposal.notes["kind"] for trial in trials] == ["start"]
    assert len(search(tmp_path / "b", budget=BudgetSettings(evaluations=3))) == 3


def kinds(trials: list[Trial]) -> list[str]:
    return [trial.proposal.notes["kind"] for trial in trials]


@pytest.mark.parametrize("loop_class", [BatchLoop, AsynchronousLoop])
def test_a_budget_of_evaluations_ends_with_the_comparison_and_may_grow(tmp_path: Path, loop_class: Any) -> None:
    budget, executor = BudgetSettings(evaluations=4), Scoring(places=3)
    short = search(tmp_path, executor, loop_class, budget=budget)
    assert kinds(short) == ["start", "generation", "generation", "guard"]
    again = Scoring()
    assert search(tmp_path, again, loop_class, budget=budget) == short
    assert again.measured == []
    longer = search(tmp_path, loop_class=loop_class)
    assert longer[:4] == short
    assert kinds(longer[4:]) == ["generation", "generation", "guard"]
    whole = search(tmp_path / "whole", loop_class=loop_class)
    assert longer[-1].proposal.candidate == whole[-1].proposal.candidate
    for kill in range(1, len(executor.measured), 4):
        folder = tmp_path / str(kill)
        with pytest.raises(Kill):
            search(folder, Scoring(kill=kill), loop_class, budget=budget)
        assert search(folder, loop_class=loop_class, budget=budget) == short


@pytest.mark.parametrize("loop_class", [BatchLoop, AsynchronousLoop])
def test_a_budget_of_evaluations_leaves_no_worker_idle_within_a_step(tmp_path: Path, loop_class: Any) -> None:
    class Full(Scoring):
        most: dict[str, int]

        def submit(self, job: Job) -> None:
            super().submit(job)
            form = job.proposal.step.form if job.proposal.step is not None else ""
            self.most[form] = max(self.most.get(form, 0), len(self.jobs))

    executor = Full(places=3)
    executor.most = {}
    assert len(search(tmp_path, executor, loop_class, budget=BudgetSettings(evaluations=3))) == 3
    assert executor.most == {"close": 3, "rough": 3, "final": 3}


@pytest.mark.parametrize("loop_class", [BatchLoop, AsynchronousLoop])
def test_when_time_is_up_the_comparison_comes_still(tmp_path: Path, loop_class: Any) -> None:
    with pytest.raises(Kill):
        search(tmp_path, Scoring(kill=30), loop_class)
    (tmp_path / "seconds.json").write_text('{"seconds": 100.0}')
    budget, executor = BudgetSettings(seconds=50.0), Scoring(places=2)
    with pytest.raises(Kill):
        search(tmp_path, Scoring(kill=1), loop_class, budget=budget)
    trials = search(tmp_path, executor, loop_class, budget=budget)
    assert kinds(trials)[-2:] == ["generation", "guard"]
    assert kinds(trials).count("guard") == 1
    assert len(executor.measured) == len(trials[-1].proposal.notes["steps"][0]["candidates"])
    assert search(tmp_path, loop_class=loop_class, budget=budget) == trials


def test_steps_beside_other_proposals_are_a_mistake(tmp_path: Path) -> None:
    class Mixed(Evolution):
        def ask(self, limit: int) -> list[Proposal]:
            found = super().ask(limit)
            return [*found, Proposal(found[0].candidate)]

    with pytest.raises(SecateursError, match="Mixed proposes candidates with a step beside others"):
        search(tmp_path, algorithm=Mixed(PROBLEM, SETTINGS, 0))
