import json
from pathlib import Path

import torch

from evaluators.training.moments import TrainingMoments
from search.run.failures import Failures
from search.run.measurements import Measurements, measure_row
from search.run.network import Network
from search.run.stage_run import Stopwatch
from search.run.steps import StageStep, key_of
from tests.search.small_space import PointTask


def test_a_step_is_done_when_its_network_is_there(tmp_path: Path) -> None:
    task = PointTask()
    step = StageStep(tmp_path / "0-train" / "result", "abc")
    step.open()
    assert step.load(task) is None
    (step.folder / "training.safetensors").write_bytes(b"")
    model = task.build()
    with torch.no_grad():
        next(model.parameters()).fill_(2.0)
    step.finish(Network(model), {"history": [1]})
    assert not (step.folder / "training.safetensors").exists()
    step.open()
    found = step.load(task)
    assert found is not None
    assert found[1] == {"history": [1]}
    assert next(found[0].model.parameters()).detach().eq(2.0).all()


def test_moments_of_a_training_are_kept_with_its_network(tmp_path: Path) -> None:
    task = PointTask()
    step = StageStep(tmp_path / "0-train" / "result", "abc")
    step.open()
    model = task.build()
    values = {name: torch.rand_like(parameter) for name, parameter in model.named_parameters()}
    step.finish(Network(model, moments=TrainingMoments("adam", 32, 7, values)), {})
    found = step.load(task)
    assert found is not None
    moments = found[0].moments
    assert moments is not None
    assert (moments.optimizer, moments.batch_size, moments.steps) == ("adam", 32, 7)
    assert all(torch.equal(moments.values[name], value) for name, value in values.items())
    assert set(moments.values) == set(values)
    assert found[0].digest() == found[0].copy().digest() != Network(found[0].model).digest()


def test_what_another_configuration_left_is_removed(tmp_path: Path) -> None:
    task = PointTask()
    folder = tmp_path / "0-train" / "result"
    first = StageStep(folder, "abc")
    first.open()
    first.finish(Network(task.build()), {})
    second = StageStep(folder, "xyz")
    second.open()
    assert second.load(task) is None
    assert [entry.name for entry in folder.iterdir()] == ["key.json"]


def test_keys_depend_on_content_only() -> None:
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_seconds_add_up_over_resumes(tmp_path: Path) -> None:
    path = tmp_path / "seconds.json"
    path.write_text(json.dumps({"seconds": 100.0}))
    watch = Stopwatch(path)
    assert 100.0 <= watch.seconds < 101.0
    watch.save()
    assert Stopwatch.read(path) == 100.0
    watch.save(every=0.0)
    assert 100.0 < Stopwatch.read(path) < 101.0


def test_the_test_split_is_read_once_per_network(tmp_path: Path) -> None:
    calls = []

    def measured() -> dict[str, float]:
        calls.append(1)
        return {"top1": 0.5}

    for _ in range(2):
        assert Measurements(tmp_path / "m.json", quiet()).row("result", "k", measured) == {"top1": 0.5}
    assert len(calls) == 1
    Measurements(tmp_path / "m.json", quiet()).row("result", "other", measured)
    assert len(calls) == 2


def test_a_row_of_the_same_network_is_taken_from_another_run_which_stays_as_it_was(tmp_path: Path) -> None:
    theirs, told = tmp_path / "theirs.json", []
    Measurements(theirs, quiet()).row("reference", "k", lambda: {"top1": 0.25})
    before = theirs.read_bytes()

    def taken(key: str, kind: type = dict[str, float]) -> dict[str, float]:
        own = Measurements(tmp_path / f"{key}.json", quiet(), told.append, theirs)
        return own.row("reference", key, lambda: {"top1": 0.5}, kind)

    assert taken("k") == {"top1": 0.25}
    assert taken("other") == {"top1": 0.5}
    assert told == []
    assert theirs.read_bytes() == before
    theirs.unlink()
    assert taken("k") == {"top1": 0.25}, "it is the own run's from then on"
    (tmp_path / "k.json").unlink()
    assert taken("k") == {"top1": 0.5}
    (tmp_path / "k.json").unlink()
    theirs.write_bytes(before)
    assert taken("k", dict[str, int]) == {"top1": 0.5}
    (line,) = told
    assert "theirs.json: reference" in line


def quiet() -> Failures:
    return Failures(lambda text, level: None)


def test_a_row() -> None:
    task = PointTask()
    failures = quiet()
    row = measure_row("result", task.build(), task, torch.device("cpu"), failures)
    assert failures.rows == []
    assert set(row) == {
        "top1", "loss", "metrics", "parameters", "macs", "size_bytes", "bit_operations", "latency_ms",
        "standard_errors", "resamples",
    }  # fmt: skip
    assert row["macs"] == 4 + 8
    assert row["parameters"] == 8 + 10
    assert row["size_bytes"] == 4 * 18
    assert 0 <= row["top1"] <= 1
    assert row["metrics"] == {}


def test_a_lost_key_is_made_again_from_the_network_and_else_the_step_begins_again(tmp_path: Path) -> None:
    task, told = PointTask(), []
    step = StageStep(tmp_path / "0-train" / "result", "abc", told.append)
    assert not step.open()
    step.finish(Network(task.build()), {"history": [1]})
    for content in (None, b"", b'{"key": 5}', b"[" * 1000):
        path = step.folder / "key.json"
        path.unlink() if content is None else path.write_bytes(content)
        assert step.open()
        assert step.load(task) is not None
        assert told[-1].endswith("key.json was lost, and is made again from network.safetensors")
    (step.folder / "key.json").unlink()
    step.path.write_bytes(step.path.read_bytes()[:-1])
    assert not step.open()
    assert step.load(task) is None
    assert told[-1].endswith("the step begins again")


def test_a_damaged_network_is_told_and_counts_as_none(tmp_path: Path) -> None:
    task, told = PointTask(), []
    step = StageStep(tmp_path / "0-train" / "result", "abc", told.append)
    step.open()
    step.finish(Network(task.build()), {})
    content = step.path.read_bytes()
    step.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert step.load(task) is None
    (line,) = told
    assert "network.safetensors" in line
    assert line.endswith("the stage runs again")


def test_damaged_seconds_and_measurements_are_told_and_made_again(tmp_path: Path) -> None:
    told: list[str] = []
    for content in (b"", b'{"seconds": -1.0}', b'{"seconds": "1"}', b'{"seconds": 1e999}'):
        (tmp_path / "seconds.json").write_bytes(content)
        assert Stopwatch(tmp_path / "seconds.json", told.append).before == 0.0
    assert len(told) == 4
    assert all("seconds.json" in line for line in told)
    failures = Failures(lambda text, level: None)
    for content in (b"{", b'{"result": 3}', b'{"result": {"key": "k", "row": {"top1": "high"}}}'):
        (tmp_path / "m.json").write_bytes(content)
        row = Measurements(tmp_path / "m.json", failures, told.append).row(
            "result", "k", lambda: {"top1": 0.5}, dict[str, float]
        )
        assert row == {"top1": 0.5}
    assert len(told) == 7
    assert all("m.json" in line for line in told[4:])
