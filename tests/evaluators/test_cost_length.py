"""Costs of networks over tokens at a stated length: what is traced, predicted, counted, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from evaluators.cost import Cost, CostSettings, count_costs
from evaluators.task import LengthError, Task
from evaluators.tasks.loader_task import LoaderTask
from search.compress import compress
from search.config.document import ConfigError, to_yaml
from search.config.loading import configure, load
from search.pipeline.inspection import examine, show
from spaces.channel_mask import ChannelMask, ChannelMaskSettings
from spaces.execution.batch import at_length


class Reader(nn.Module):
    """A recurrent classifier of six tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(20, 8), nn.GRU(8, 12, batch_first=True), nn.Linear(12, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.layer(self.embed(ids))[0][:, -1])


class Sentences(LoaderTask):
    """Sentences of six tokens."""

    def __init__(self, floats: bool = False) -> None:
        torch.manual_seed(0)
        ids = torch.arange(96).reshape(16, 6) % 20
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)) if floats else Reader()
        data = DataLoader(TensorDataset(ids.float() if floats else ids, torch.arange(16) % 2), batch_size=8)
        super().__init__(model, data, data)


STAGES = [
    {
        "search": {
            "space": {"name": "channel_mask"},
            "algorithm": {"name": "genetic", "population": 4, "generations": 1},
            "evaluate": [{"accuracy": {"split": "search"}}, "cost"],
            "objectives": {"top1": "maximize"},
            "target": {"macs": "<= 70%"},
        }
    }
]
STEP, HEAD = 3 * 12 * (8 + 12), 12 * 2


def write(folder: Path, length: Any, **arguments: Any) -> Path:
    task = {"class": f"{__name__}.Sentences", "arguments": arguments, "length": length}
    path = folder / "mine.yaml"
    path.write_text(to_yaml({"name": "mine", "task": task, "stages": STAGES}))
    return path


@pytest.mark.parametrize(("length", "steps"), [(None, 6), (4, 4), (15, 15)])
def test_costs_are_those_of_the_stated_tokens(length: int | None, steps: int) -> None:
    task = Sentences()
    task.cost_length = length
    inputs = task.traced_inputs()
    assert inputs.tolist() == [[token % 6 for token in range(steps)]]
    space = ChannelMask(task.build(), inputs, ChannelMaskSettings(compensate=False), forward=task.forward)
    assert space.network_macs == count_costs(task.build(), inputs)["macs"] == steps * STEP + HEAD


def test_tensors_of_as_many_tokens_are_cut_together() -> None:
    inputs = {"ids": torch.arange(5)[None], "mask": torch.ones(1, 5), "kind": torch.zeros(1, 2), "scale": torch.ones(1)}
    found = at_length(inputs, 7)
    assert found["ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1]]
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "ids": (1, 7), "mask": (1, 7), "kind": (1, 2), "scale": (1,)
    }  # fmt: skip


@pytest.mark.parametrize(
    ("floats", "length", "words"), [(True, 9, "expected inputs of tokens"), (False, 0, "at least 1, got 0")]
)
def test_a_length_that_does_not_fit_is_refused(floats: bool, length: int, words: str) -> None:
    task = Sentences(floats)
    task.cost_length = length
    with pytest.raises(LengthError, match=words):
        task.traced_inputs()


def test_the_configuration_states_it_and_inspect_says_it(tmp_path: Path) -> None:
    config = load(write(tmp_path, 128))
    assert config.canonical()["task"]["length"] == 128
    assert config.build_task().traced_inputs().shape == (1, 128)
    found = examine(config)
    assert found["costs"]["macs"] == sum(found["module_macs"].values()) == 128 * STEP + HEAD
    console = Console(record=True, width=160)
    show(found, console)
    assert "MACs at 128 tokens" in console.export_text()
    assert "length" not in load(write(tmp_path, None)).canonical()["task"]


@pytest.mark.parametrize("length", [0, -3, "long", 1.5, True])
def test_what_is_no_length_is_an_error_with_its_line(tmp_path: Path, length: Any) -> None:
    with pytest.raises(ConfigError, match="task.length: expected a number of tokens, at least 1"):
        load(write(tmp_path, length))


def test_a_program_states_it_too_and_metrics_are_named_after_it() -> None:
    task: Task = Sentences()
    cost = Cost(CostSettings(activations=True))
    assert cost.metrics_for(task) == cost.metrics
    task.cost_length = 1024
    labels = {name: metric.named(name).label for name, metric in cost.metrics_for(task).items()}
    assert labels["macs"] == "MACs at 1,024 tokens"
    assert labels["parameters"] == "parameters"
    assert configure({"name": "mine", "stages": STAGES}, task).canonical()["task"]["length"] == 1024


@pytest.mark.slow
def test_a_run_reports_costs_at_the_length(tmp_path: Path) -> None:
    model, data = Reader(), DataLoader(TensorDataset(torch.arange(96).reshape(16, 6) % 20, torch.arange(16) % 2), 8)
    search = {**STAGES[0]["search"], "evaluate": ["accuracy", {"cost": {"activations": True}}]}
    found = compress(model, data, data, target={}, folder=tmp_path / "run", stages=[{"search": search}], length=50, quiet=True)
    assert found.report["reference"]["macs"] == 50 * STEP + HEAD
    assert found.report["result"]["macs"] == count_costs(found.model, torch.zeros(1, 50, dtype=torch.int64))["macs"]
    assert found.report["result"]["peak_activation_bytes"] < found.report["reference"]["peak_activation_bytes"]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "MACs at 50 tokens" in page
    assert "peak activations at 50 tokens" in page
