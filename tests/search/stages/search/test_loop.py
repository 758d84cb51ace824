from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.algorithms.base import Algorithm
from search.executors.base import Event, Executor, Job, Result
from search.executors.trial_checkpoints import TrialCheckpoints
from search.output.progress import Log
from search.run.stage_run import Stopwatch
from search.stages.search.asynchronous_loop import AsynchronousLoop
from search.stages.search.batch_loop import BatchLoop
from search.stages.search.loop import SearchFailedError, SearchLoop
from search.stages.search.search_note import SearchNote
from search.stages.search.settings import BudgetSettings
from search.study.storage import open_journal
from search.study.study import Study, StudyError
from search.study.trial import Proposal, Trial
from spaces.errors import SecateursError
from tests.search.small_space import small_problem


class Adaptive(Algorithm):
    """Proposes what depends on everything told so far, so that any change of order shows."""

    def __init__(self, total: int = 12, generation: int = 4, seed: int = 0) -> None:
        self.total, self.generation, self.seed = total, generation, seed
        self.asked = 0
        self.told: list[Trial] = []

    def ask(self, limit: int) -> list[Proposal]:
        proposals = []
        while len(proposals) < limit and self.asked < min(self.total, self.told_generations + self.generation):
            scores = [trial.metrics.get("top1", 0.0) for trial in self.told[: self.told_generations]]
            history = sum(score * (place + 1) for place, score in enumerate(scores))
            rng = np.random.default_rng([self.seed, self.asked, int(history * 1e6)])
            proposals.append(Proposal(small_problem().space.sample(rng)))
            self.asked += 1
        return proposals

    @property
    def told_generations(self) -> int:
        return len(self.told) // self.generation * self.generation

    def tell(self, trial: Trial) -> None:
        assert trial.number == len(self.told)
        self.told.append(trial)

    @property
    def finished(self) -> bool:
        return len(self.told) >= self.total

    @property
    def budget(self) -> int | None:
        return self.total


class Kill(BaseException):
    pass


class Measuring(Executor[Any]):
    """Measures by a formula; may fail, answer in reverse order, or be killed after a number of trials."""

    def __init__(
        self,
        fails: Callable[[int], bool] = lambda number: False,
        reverse: bool = False,
        kill: int = -1,
        places: int = 1,
    ) -> None:
        self.fails, self.reverse, self.kill, self.places = fails, reverse, kill, places
        self.jobs: list[Job] = []
        self.measured: list[int] = []

    @property
    def free(self) -> int:
        return self.places - len(self.jobs)

    @property
    def workers(self) -> int:
        return self.places

    @property
    def busy(self) -> int:
        return len(self.jobs)

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def events(self) -> "list[Event]":  # type: ignore[override]
        return self._events()  # type: ignore[return-value]

    def _events(self):  # type: ignore[no-untyped-def]
        while self.jobs:
            job = self.jobs.pop(-1 if self.reverse else 0)
            if len(self.measured) == self.kill:
                raise Kill
            self.measured.append(job.number)
            if self.fails(job.number):
                yield Result(Trial(job.number, job.proposal, "failed", {}, 0.0, "RuntimeError: broken"))
            else:
                score = int(job.proposal.candidate.fingerprint, 16) % 1000 / 1000
                yield Result(Trial(job.number, job.proposal, "complete", {"top1": score, "macs": 4.0}))

    def cancel(self) -> None:
        self.jobs.clear()


def search(
    folder: Path,
    executor: Measuring | None = None,
    algorithm: Algorithm | None = None,
    budget: BudgetSettings | None = None,
    batch: int = 3,
    best: list[int] | None = None,
    loop_class: type[SearchLoop] = BatchLoop,
) -> list[Trial]:
    folder.mkdir(exist_ok=True)
    study = Study(open_journal(folder / "study"), "r/0-search", small_problem())
    with Log(None, None).bar("search", None) as bar:
        return loop_class(
            algorithm=algorithm or Adaptive(),
            study=study,
            executor=executor or Measuring(),
            checkpoints=TrialCheckpoints(folder / "trials"),
            budget=budget or BudgetSettings(),
            batch=batch,
            stopwatch=Stopwatch(folder / "seconds.json"),
            bar=bar,
            note=SearchNote(small_problem()),
            log=lambda text, level: None,
            on_batch=lambda trials: best.append(len(trials)) if best is not None else None,
        ).run()


def proposals(trials: list[Trial]) -> list[str]:
    return [trial.proposal.candidate.fingerprint for trial in trials]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in "ab":
        (tmp_path / name).mkdir()
    return tmp_path / "a", tmp_path / "b"


def test_killed_at_any_trial_it_ends_with_the_same_trials(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    whole = search(tmp_path / "whole")
    assert len(whole) == 12
    for kill in range(12):
        folder = tmp_path / str(kill)
        folder.mkdir()
        with pytest.raises(Kill):
            search(folder, Measuring(kill=kill))
        rest = Measuring()
        assert search(folder, rest) == whole
        assert rest.measured == list(range(kill, 12))


def test_order_of_results_and_failures_change_nothing(folders: tuple[Path, Path]) -> None:
    def fails(number: int) -> bool:
        return number in (0, 5)

    first = search(folders[0], Measuring(fails))
    second = search(folders[1], Measuring(fails, reverse=True))
    assert first == second
    assert [trial.number for trial in first if trial.state == "failed"] == [0, 5]


def test_a_first_batch_of_failures_is_an_error_and_leaves_no_record(tmp_path: Path) -> None:
    with pytest.raises(SearchFailedError, match="first 3 trials failed.*RuntimeError: broken"):
        search(tmp_path, Measuring(lambda number: True))
    assert len(search(tmp_path)) == 12


def test_a_search_in_small_batches_goes_on_after_the_first_failures(tmp_path: Path) -> None:
    trials = search(tmp_path, Measuring(lambda number: number < 2), batch=1)
    assert [trial.number for trial in trials if trial.state == "failed"] == [0, 1]
    assert len(trials) == 12


def test_evaluations_budget_may_be_raised(folders: tuple[Path, Path]) -> None:
    short = search(folders[0], budget=BudgetSettings(evaluations=5))
    assert len(short) == 5
    longer = search(folders[0], budget=BudgetSettings(evaluations=10))
    assert longer == search(folders[1], budget=BudgetSettings(evaluations=10))
    assert longer[:5] == short


def test_a_time_budget_counts_over_resumes_and_ends_with_a_result(tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text('{"seconds": 99.9}')
    trials = search(tmp_path, budget=BudgetSettings(seconds=99.90001))
    assert len(trials) == 1
    assert search(tmp_path, budget=BudgetSettings(seconds=50.0)) == trials


def test_another_algorithm_does_not_go_on(tmp_path: Path) -> None:
    with pytest.raises(Kill):
        search(tmp_path, Measuring(kill=5))
    with pytest.raises(StudyError, match="trial 0"):
        search(tmp_path, algorithm=Adaptive(seed=1))


def test_more_recorded_than_searched_is_an_error(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(SecateursError, match="12 trials"):
        search(tmp_path, algorithm=Adaptive(total=4))


def test_best_is_kept_after_new_batches_only(tmp_path: Path) -> None:
    with pytest.raises(Kill):
        search(tmp_path, Measuring(kill=7))
    batches: list[int] = []
    search(tmp_path, best=batches)
    assert batches[0] > 7 - 3
    assert batches[-1] == 12


def test_an_algorithm_that_waits_for_nothing_is_a_mistake(tmp_path: Path) -> None:
    class Stuck(Adaptive):
        def ask(self, limit: int) -> list[Proposal]:
            return []

    with pytest.raises(SecateursError, match="Stuck proposes nothing"):
        search(tmp_path, algorithm=Stuck())


class Whatever(Adaptive):
    """Draws without looking at what was told, and draws nothing twice."""

    def ask(self, limit: int) -> list[Proposal]:
        proposals = []
        while len(proposals) < limit and self.asked < self.total:
            candidate = small_problem().space.sample(np.random.default_rng([self.seed, self.asked]))
            self.asked += 1
            if candidate not in [trial.proposal.candidate for trial in self.told]:
                proposals.append(Proposal(candidate))
        return proposals


def test_asynchronously_trials_are_told_and_recorded_as_they_are_finished(tmp_path: Path) -> None:
    executor, algorithm = Measuring(reverse=True, places=3), Whatever()
    trials = search(tmp_path, executor, algorithm, loop_class=AsynchronousLoop)
    # The last one submitted is finished first, and its place is taken at once.
    assert executor.measured == [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 0]
    assert [trial.number for trial in trials] == list(range(12))
    assert [trial.proposal for trial in algorithm.told] == [trial.proposal for trial in trials]
    assert sorted(proposals(trials)) == sorted(proposals(search(tmp_path / "b", algorithm=Whatever())))


def test_asynchronously_killed_at_any_trial_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    whole = search(tmp_path, algorithm=Whatever())
    for kill in range(1, 12):
        folder = tmp_path / str(kill)
        with pytest.raises(Kill):
            search(folder, Measuring(kill=kill, reverse=True, places=3), Whatever(), loop_class=AsynchronousLoop)
        rest = Measuring(places=3)
        found = search(folder, rest, Whatever(), loop_class=AsynchronousLoop)
        assert sorted(proposals(found)) == sorted(proposals(whole))
        assert rest.measured == list(range(kill, 12))


def test_asynchronous_budgets_and_failures(tmp_path: Path) -> None:
    budget = BudgetSettings(evaluations=5)
    executor = Measuring(places=3)
    assert len(search(tmp_path / "a", executor, Whatever(), budget, loop_class=AsynchronousLoop)) == 5
    assert len(executor.measured) == 5
    with pytest.raises(SearchFailedError, match="first 3 trials failed.*RuntimeError: broken"):
        search(tmp_path / "b", Measuring(lambda number: True, places=2), Whatever(), loop_class=AsynchronousLoop)
    assert len(search(tmp_path / "b", Measuring(places=2), Whatever(), loop_class=AsynchronousLoop)) == 12
    some = search(tmp_path / "c", Measuring(lambda number: number < 2, places=2), Whatever(), loop_class=AsynchronousLoop)
    assert [trial.state for trial in some[:3]] == ["failed", "failed", "complete"]


def test_asynchronously_the_best_is_kept_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    kept: list[int] = []
    search(tmp_path, Measuring(places=3), Whatever(), best=kept, batch=5, loop_class=AsynchronousLoop)
    assert kept == [5, 10, 12]
