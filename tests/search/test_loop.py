from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_space import small_problem

from search.algorithms.base import Algorithm
from search.executors.base import Event, Executor, Job, Result
from search.loop import SearchFailedError, SearchLoop
from search.progress import Log
from search.run import Stopwatch
from search.stages.search_settings import BudgetSettings
from search.study import Study, StudyError, open_storage
from search.trial import Proposal, Trial
from spaces.errors import SecateursError


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


class Measuring(Executor):
    """Measures by a formula; may fail, answer in reverse order, or be killed after a number of trials."""

    def __init__(self, fails: Callable[[int], bool] = lambda number: False, reverse: bool = False, kill: int = -1) -> None:
        self.fails, self.reverse, self.kill = fails, reverse, kill
        self.jobs: list[Job] = []
        self.measured: list[int] = []

    @property
    def free(self) -> int:
        return 1

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
) -> list[Trial]:
    study = Study(open_storage(folder / "study"), "r/0-search", small_problem())
    with Log(None, None).bar("search", None) as bar:
        return SearchLoop(
            algorithm or Adaptive(),
            study,
            executor or Measuring(),
            budget or BudgetSettings(),
            batch,
            Stopwatch(folder / "seconds.json"),
            bar,
            lambda trials: best.append(len(trials)) if best is not None else None,
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


def test_evaluations_budget_may_be_raised(folders: tuple[Path, Path]) -> None:
    short = search(folders[0], budget=BudgetSettings(evaluations=5))
    assert len(short) == 5
    longer = search(folders[0], budget=BudgetSettings(evaluations=10))
    assert longer == search(folders[1], budget=BudgetSettings(evaluations=10))
    assert longer[:5] == short


def test_a_time_budget_counts_over_resumes_and_ends_with_a_result(tmp_path: Path) -> None:
    (tmp_path / "seconds.json").write_text('{"seconds": 99.9}')
    trials = search(tmp_path, budget=BudgetSettings(seconds=99.90001))
    assert 0 <= len(trials) <= 1
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
