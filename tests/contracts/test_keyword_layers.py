"""Layers that a network calls by keyword: whatever hooks into layers finds their input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from evaluators.sensitivity.estimates import SensitivitySettings, calibration_batches
from evaluators.sensitivity.loss_increase import activation_increases
from evaluators.tasks.loader_task import LoaderTask
from evaluators.tasks.observations import observations
from evaluators.training.loop import TrainingSettings, train
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.channels.check import find_checked_groups
from spaces.importance.criterion import CRITERIA, score
from spaces.quantization.fake_quantize import Quantizer

CPU = torch.device("cpu")


class ByKeyword(nn.Module):
    """Calls its layers by keyword, or by place with the same answer."""

    def __init__(self, keyword: bool) -> None:
        super().__init__()
        self.keyword = keyword
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.point = nn.Conv2d(6, 4, 1, stride=2)
        self.head = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        def call(layer: nn.Module, values: Tensor) -> Tensor:
            found: Tensor = layer(input=values) if self.keyword else layer(values)
            return found

        hidden = call(self.point, call(self.bn, call(self.conv, images)).relu())
        return call(self.head, hidden.relu().flatten(1))


def made(keyword: bool) -> LoaderTask:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ByKeyword(keyword)
        loader = DataLoader(TensorDataset(torch.randn(32, 2, 4, 4), torch.arange(32) % 3), batch_size=8)
    return LoaderTask(model, loader, loader)


def test_scores_bits_and_sensitivities_are_those_of_layers_called_by_place() -> None:
    found = []
    for task in (made(True), made(False)):
        model = task.reference_model()
        groups = find_checked_groups(model, task.example_inputs())
        scores = [score(model, groups, name, observations(task, CPU)) for name in CRITERIA]
        batches = [batch for batch, _ in task.batches("train", 16)]
        space = BitWidth(model, task.example_inputs(), BitWidthSettings((8,), (8,), None), batches=batches)
        prepared = space.prepare(model, Candidate(dict.fromkeys(space.domains, 8)))
        wanted = {place.path: (8,) for place in space.quantizers if place.kind == "activation"}
        settings = SensitivitySettings(samples=16)
        rises = activation_increases(prepared, wanted, task, calibration_batches(task, settings, CPU), Quantizer.quantized)
        with torch.no_grad():
            answers = prepared(batches[0]).tolist()
        found.append(([{name: values.tolist() for name, values in one.items()} for one in scores], rises, answers))
    assert len(found[0][1]) == 3
    assert found[0] == found[1]


def test_training_in_channels_last_subsamples_a_strided_convolution() -> None:
    losses = []
    for task in (made(True), made(False)):
        history = train(task.reference_model(), task, TrainingSettings(epochs=1, batch_size=16), seed=0, device=CPU)
        losses.append(history.epochs[0].loss)
    assert losses[0] == losses[1]
