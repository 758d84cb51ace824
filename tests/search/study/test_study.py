import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from search.study.problem import Objective, Problem
from search.study.storage import open_journal
from search.study.study import Study, StudyError, check_replay
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from tests.search.small_space import small_problem

GOOD = Candidate({"first": "1100", "second": "111000"})


def trial(number: int, fidelity: float = 1.0, state: str = "complete") -> Trial:
    second = f"{number + 1:06b}"
    candidate = Candidate({"first": "1100", "second": second})
    if state == "failed":
        return Trial(number, Proposal(candidate), "failed", {}, 0.5, "RuntimeError: no")
    return Trial(number, Proposal(candidate, fidelity, 0 if number else None), "complete", {"top1": 0.5, "macs": 5.0}, 0.5)


def test_trials_come_back_as_they_were(tmp_path: Path) -> None:
    trials = [trial(0), trial(1, fidelity=0.25), trial(2, state="failed")]
    study = Study(open_journal(tmp_path / "s"), "r/2-search", small_problem())
    for one in trials:
        study.add(one)
    assert Study(open_journal(tmp_path / "s"), "r/2-search", small_problem()).trials() == trials


def test_a_new_trial_is_told_once_and_a_recorded_one_is_not(tmp_path: Path) -> None:
    told: list[int] = []
    for number in (0, 1):
        study = Study(open_journal(tmp_path / "s"), "r/2-search", small_problem(), told=lambda one: told.append(one.number))
        assert len(study.trials()) == number
        study.add(trial(number))
    assert told == [0, 1]


def test_what_a_person_reads(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "s")
    study = Study(storage, "r/2-search", small_problem())
    for one in (trial(0), trial(1, fidelity=0.25), trial(2, state="failed")):
        study.add(one)
    found = optuna.load_study(study_name="r/2-search", storage=storage)
    assert found.metric_names == ["top1", "macs"]
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert [one.state.name for one in found.trials] == ["COMPLETE", "PRUNED", "FAIL"]
    assert found.trials[0].params == {"first": 0.5, "second": pytest.approx(1 / 6)}
    assert found.trials[0].values == [0.5, 5.0]
    assert found.trials[2].user_attrs["error"] == "RuntimeError: no"
    assert found.trials[0].duration is not None
    assert found.trials[0].duration.total_seconds() == pytest.approx(0.5)
    assert [one.number for one in found.best_trials] == [0]


def test_studies_of_one_run_are_apart(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "s")
    first = Study(storage, "r/2-search", small_problem())
    second = Study(storage, "r/2-search/random", small_problem())
    first.add(trial(0))
    assert len(first.trials()) == 1
    assert second.trials() == []


def test_other_objectives_are_refused(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "s")
    Study(storage, "r/2-search", small_problem())
    problem = small_problem()
    other = Problem(problem.space, [Objective("top5", "maximize"), problem.objectives[1]], (), {})
    with pytest.raises(StudyError, match="top5"):
        Study(storage, "r/2-search", other)


def test_replay_names_what_differs() -> None:
    recorded = trial(3)
    check_replay(recorded, recorded.proposal)
    with pytest.raises(StudyError, match=f"trial 3: .*{GOOD.fingerprint}"):
        check_replay(recorded, Proposal(GOOD))
    with pytest.raises(StudyError, match=r"fidelity 0\.5"):
        check_replay(recorded, replace(recorded.proposal, fidelity=0.5))


def test_a_changed_record_of_the_journal_is_told_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = Study(open_journal(path), "r/2-search", small_problem())
    for number in range(3):
        study.add(trial(number))
    before, first, last = path.read_bytes().rsplit(b"\n", 3)[0], *path.read_bytes().splitlines(keepends=True)[-2:]
    path.write_bytes(before + b"\n" + first.replace(b"0.5", b"0.6") + last)
    said: list[str] = []
    again = Study(open_journal(path, said.append), "r/2-search", small_problem())
    assert again.trials() == [trial(0)]
    (line,) = said
    assert "study.journal: the record at byte" in line
    assert "evaluated again" in line


@pytest.mark.parametrize(
    "change",
    [
        {"candidate": '{"first": "0110", "second": "111111"}'},
        {"fingerprint": "0" * 16},
        {"metrics": {"top1": 0.6, "macs": 5.0}},
        {"fidelity": 0.5},
        {"number": 1},
        {"candidate": "{"},
        {"candidate": 3},
    ],
)
def test_a_changed_record_of_a_database_is_refused_by_its_number(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "study.journal"
    Study(open_journal(path), "r/2-search", small_problem()).add(trial(0))
    lines = path.read_bytes().splitlines()
    record = json.loads(lines[-1])
    record["user_attrs"] |= change
    # Without the digest of the line, which a database does not have.
    path.write_bytes(b"\n".join([*lines[:-1], json.dumps({**record, "digest": ""}).encode(), b""]))
    with pytest.raises(StudyError, match=r"study 'r/2-search': trial 0 is damaged, or was changed"):
        Study(open_journal(path), "r/2-search", small_problem()).trials()


def test_trials_from_before_digests_are_read(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    Study(open_journal(path), "r/2-search", small_problem()).add(trial(0))
    records = [json.loads(line) for line in path.read_bytes().splitlines()]
    for record in records:
        del record["digest"]
        record.get("user_attrs", {}).pop("digest", None)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert Study(open_journal(path), "r/2-search", small_problem()).trials() == [trial(0)]


def test_trials_on_another_network_are_given_up_and_those_on_the_same_one_kept(tmp_path: Path) -> None:
    storage = open_journal(tmp_path / "s")
    Study(storage, "r/2-search", small_problem()).add(trial(0))
    assert len(Study(storage, "r/2-search", small_problem(), entered="abc").trials()) == 1  # Of an earlier version.
    assert len(Study(storage, "r/2-search", small_problem(), entered="abc").trials()) == 1
    other = Study(storage, "r/2-search", small_problem(), entered="xyz")
    assert other.trials() == []
    other.add(trial(0))
    assert len(Study(open_journal(tmp_path / "s"), "r/2-search", small_problem(), entered="xyz").trials()) == 1
