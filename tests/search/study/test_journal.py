"""The journal bears a torn write at any byte."""

from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.study.journal import cut_torn_records
from search.study.storage import open_journal, open_storage
from search.study.study import Study
from search.study.trial import Proposal, Trial
from spaces.candidate import Candidate
from tests.search.small_space import small_problem

NAME = "r/2-search"
GOOD = b'{"op_code":0,"worker_id":"w","study_name":"n","directions":[1]}\n'


def trial(number: int) -> Trial:
    candidate = Candidate({"first": "1100", "second": f"{number % 63 + 1:06b}"})
    return Trial(number, Proposal(candidate), "complete", {"top1": 0.5, "macs": 5.0}, 0.5)


def recorded(path: Path) -> list[Trial]:
    return Study(open_journal(path), NAME, small_problem()).trials()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a journal of five trials."""
    path = tmp_path_factory.mktemp("journal") / "study.journal"
    study = Study(open_journal(path), NAME, small_problem())
    for number in range(5):
        study.add(trial(number))
    return path.read_bytes()


def test_torn_at_any_byte_of_the_last_records_it_loses_the_torn_one_only(whole: bytes, tmp_path: Path) -> None:
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    path = tmp_path / "study.journal"
    for length in range(ends[-3], len(whole) + 1):
        path.write_bytes(whole[:length])
        there = sum(end <= length for end in ends[-5:])
        said = cut_torn_records(path)
        assert path.read_bytes() == whole[: max(end for end in ends if end <= length)]
        torn = length - path.stat().st_size
        assert said == (f"study.journal: cut off {torn} bytes of a torn record at its end" if torn else "")
        if length % 200 == 0 or torn < 3:
            study = Study(open_journal(path), NAME, small_problem())
            assert study.trials() == [trial(number) for number in range(there)]
            study.add(trial(there))
            assert recorded(path) == [trial(number) for number in range(there + 1)]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_torn_with_anything_behind_it(whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    first = whole.index(b"\n") + 1
    length = data.draw(st.integers(first, len(whole)))
    lines = [b"\0" * 30 + b"\n", b"5\n", b"{}\n", b'{"op_code":\n', b"\r\n"]
    garbage = data.draw(st.binary(max_size=40) | st.sampled_from(lines))
    path = tmp_path_factory.mktemp("torn") / "study.journal"
    path.write_bytes(whole[:length] + garbage)
    cut_torn_records(path)
    kept = path.read_bytes()
    assert kept.endswith(b"\n")
    # A record that is torn just before its line's end is whole with any white space behind it.
    records = [line.rstrip() for line in kept.split(b"\n")[:-1]]
    assert records == whole.split(b"\n")[: len(records)]
    assert len(records) >= whole[:length].count(b"\n")
    assert cut_torn_records(path) == ""
    assert recorded(path) == [trial(number) for number in range(len(recorded(path)))]


def test_a_block_lost_in_the_middle_is_cut_and_what_followed_is_kept_aside(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    path.write_bytes(GOOD + b"\0\0\0\n" + GOOD)
    assert "the record at byte 64 is damaged; cut off 68 bytes from there" in cut_torn_records(path)
    assert path.read_bytes() == GOOD
    assert (tmp_path / "study.journal.cut").read_bytes() == b"\0\0\0\n" + GOOD
    assert cut_torn_records(tmp_path / "nothing") == ""


def test_a_lock_left_by_a_killed_writer_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    (tmp_path / "study.journal.lock").symlink_to(path)
    Study(open_journal(path), NAME, small_problem())


def test_a_reader_all_the_time_changes_nothing_and_never_fails(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = Study(open_journal(path), NAME, small_problem())
    done, failures, most = threading.Event(), [], [0]

    def read() -> None:
        while not done.is_set():
            try:
                storage = JournalStorage(JournalFileBackend(str(path)))
                most[0] = max(most[0], len(storage.get_all_trials(storage.get_study_id_from_name(NAME))))
            except Exception as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for number in range(150):
            study.add(trial(number))
    finally:
        done.set()
        reader.join()
    assert failures == []
    assert most[0] > 0
    assert recorded(path) == [trial(number) for number in range(150)]


def test_a_write_that_finds_no_room_leaves_no_part_of_a_record(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = Study(open_journal(path), NAME, small_problem())
    study.add(trial(0))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (1, 100, 700):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + room, limits[1]))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
                study.add(trial(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before
    study.add(trial(1))
    assert recorded(path) == [trial(0), trial(1)]


def test_a_journal_lost_after_a_search_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    network = tmp_path / "checkpoints" / "2-search" / "result" / "network.safetensors"
    for there in (False, True):
        if there:
            network.parent.mkdir(parents=True)
            network.touch()
        (tmp_path / "study.journal").write_bytes(b"")
        with open_storage(tmp_path, "r", None, "me", said.append):
            assert said == (
                ["study.journal was lost: the trials of searches that have ended stand in report.json alone"] * there
            )
