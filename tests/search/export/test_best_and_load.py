import json
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save
from torch import nn

from search.export import load
from search.export.formats import ExportError, write_formats
from search.export.settings import ExportSettings
from search.run.best import Best, read_best
from search.run.network import Network
from spaces.networks import digits_cnn
from tests.search.small_space import PointTask

ORIGIN = {"model": {"factory": "spaces.networks.digits_cnn", "arguments": {"width": 4}}}


def network(seed: int) -> Network:
    torch.manual_seed(seed)
    return Network(digits_cnn(width=4).eval())


def best(folder: Path) -> Best:
    return Best(folder / "best", ORIGIN, {"run": "r", "seed": 0})


def test_replaced_and_loaded(tmp_path: Path) -> None:
    assert best(tmp_path).provenance() is None
    for seed in range(2):
        best(tmp_path).replace(network(seed), {"trial": seed})
        assert best(tmp_path).provenance() == {"run": "r", "seed": 0, "trial": seed}
        found = load(tmp_path)
        assert not found.training
        for name, tensor in network(seed).model.state_dict().items():
            assert torch.equal(found.state_dict()[name], tensor)
    assert [entry.name for entry in tmp_path.iterdir()] == ["best"]


def test_loaded_while_it_is_replaced(tmp_path: Path) -> None:
    """Weights and structure are of the same network, whatever comes between the reading of the two."""
    networks = [Network(network(seed).model, ({"of": seed},)) for seed in range(2)]
    best(tmp_path).replace(networks[0], {})
    ended = threading.Event()

    def replace() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            best(tmp_path).replace(networks[number % 2], {})

    writer = threading.Thread(target=replace)
    writer.start()
    expected = [load_tensors(save(one.tensors())) for one in networks]
    try:
        for _ in range(300):
            architecture, weights = read_best(tmp_path / "best")
            (transformation,) = architecture["transformations"]
            found = load_tensors(weights)
            assert all(torch.equal(found[name], tensor) for name, tensor in expected[transformation["of"]].items())
    finally:
        ended.set()
        writer.join()


def test_a_failed_export_leaves_what_was_there(tmp_path: Path) -> None:
    best(tmp_path).replace(network(0), {"trial": 0})

    def fail(folder: Path) -> None:
        raise ExportError("no")

    with pytest.raises(ExportError, match="no"):
        best(tmp_path).replace(network(1), {"trial": 1}, extras=fail)
    assert best(tmp_path).provenance() == {"run": "r", "seed": 0, "trial": 0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["best"]


def test_what_a_kill_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".best.abc.new").mkdir()
    best(tmp_path).replace(network(0), {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["best"]


def test_a_factory_may_be_passed(tmp_path: Path) -> None:
    best(tmp_path).replace(network(0), {})
    assert isinstance(load(tmp_path / "best", lambda: digits_cnn(width=4)), nn.Module)
    with pytest.raises(ExportError, match="do not fit"):
        load(tmp_path, lambda: digits_cnn(width=8))


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no architecture\.json"):
        load(tmp_path)
    best(tmp_path).replace(network(0), {})
    path = tmp_path / "best" / "architecture.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 99}))
    with pytest.raises(ExportError, match="format 1, got 99"):
        load(tmp_path)


def test_a_task_of_the_users_own_asks_for_the_factory(tmp_path: Path) -> None:
    Best(tmp_path / "best", {"class": "nowhere.Task"}, {}).replace(network(0), {})
    with pytest.raises(ExportError, match="pass model_factory"):
        load(tmp_path)


def test_an_export_that_answers_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = PointTask()
    monkeypatch.setattr("search.export.formats.write_torch_export", lambda folder, module, inputs: [module(inputs) + 1])
    with pytest.raises(ExportError, match=r"torch_export: .*difference of 1"):
        write_formats(tmp_path, task.build(), task, ExportSettings(formats=("torch_export",)))


def test_a_network_that_can_not_be_exported_is_named(tmp_path: Path) -> None:
    class Deciding(nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return inputs if inputs.sum() > 0 else -inputs

    with pytest.raises(ExportError, match=r"torch_export failed.*export\.formats"):
        write_formats(tmp_path, Deciding(), PointTask(), ExportSettings(formats=("torch_export",)))


def test_no_pickled_samples_in_model_pt2(tmp_path: Path) -> None:
    import zipfile

    task = PointTask()
    write_formats(tmp_path, task.build(), task, ExportSettings(formats=("torch_export",)))
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        assert not [entry for entry in archive.infolist() if "sample_inputs" in entry.filename and entry.file_size]
