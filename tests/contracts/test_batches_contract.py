"""Everything that reads a batch reads one of any nesting: a small encoder called with a mapping of ids and mask."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from evaluators import EVALUATORS
from evaluators.batch_norm import recalibrate
from evaluators.cost import count_costs
from evaluators.latency.backends import BACKENDS
from evaluators.latency.backends.base import Conditions, find_backend, program_of
from evaluators.onnx_export import token_axes, write_onnx
from evaluators.sensitivity.estimates import MEASURES, SensitivitySettings, calibration_batches, weight_sensitivity
from evaluators.sensitivity.loss_increase import activation_increases
from evaluators.sensitivity.measured_increase import divergence_table, loss_increases
from evaluators.tasks.measure import measure_with_errors
from evaluators.tasks.observations import observations
from evaluators.testing import check_evaluator
from evaluators.training.loop import TrainingSettings, train
from evaluators.training.settings import DistillationSettings
from search.export.formats import write_formats
from search.export.settings import ExportSettings
from search.pipeline.plausibility import require_dependent_loss, require_informative_loss, score_at_chance
from search.pipeline.retention import Retention
from search.run.network import Network
from search.stages import STAGES
from search.stages.testing import check_stage
from spaces import SPACES
from spaces.bit_width import BitWidth, BitWidthSettings
from spaces.candidate import Candidate
from spaces.channels.check import find_checked_groups
from spaces.execution.batch import select
from spaces.execution.forward import call
from spaces.fusion.modules import fuse_activations
from spaces.importance.criterion import CRITERIA, score
from spaces.quantization.fake_quantize import Quantizer
from spaces.quantization.record import pack_weights
from spaces.registry import lookup
from spaces.sparsifiers import SPARSIFIERS
from spaces.sparsifiers.scaling_factor import ScalingFactorSettings
from spaces.testing import check_space, check_sparsifier
from tests.contracts.nested_task import CLASSES, LENGTH, WORDS, encoder, nested_task

CPU = torch.device("cpu")


def quick(names: Iterable[str], slow: Iterable[str]) -> list[Any]:
    """Return test parameters, those of minutes marked as slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] * (name in slow)) for name in names]


@pytest.mark.parametrize("name", quick(EVALUATORS, ["latency"]))
def test_every_evaluator(name: str) -> None:
    check_evaluator(lookup(EVALUATORS, name, "evaluator"), nested_task())


@pytest.mark.parametrize("name", quick(SPACES, ["joint", "bit_width"]))
def test_every_space(name: str) -> None:
    task = nested_task()
    inputs = task.example_inputs()
    batches = [batch for batch, _ in task.batches("train", 16, limit=32)]
    check_space(
        lookup(SPACES, name, "space"),
        encoder(),
        inputs,
        lambda network: count_costs(pack_weights(network), inputs),
        batches=batches,
        seen=observations(task, CPU, limit=32),
        candidates=1,
    )


@pytest.mark.parametrize("name", SPARSIFIERS)
def test_every_sparsifier(name: str) -> None:
    inputs, targets = next(iter(nested_task().batches("train", 16)))
    settings = ScalingFactorSettings(layers="all_norms") if name == "scaling_factor" else None
    check_sparsifier(lookup(SPARSIFIERS, name, "sparsifier"), encoder(), inputs, targets, settings)


@pytest.mark.parametrize("name", CRITERIA)
def test_every_criterion_of_importance(name: str) -> None:
    task, model = nested_task(), encoder()
    groups = find_checked_groups(model, task.example_inputs(), forward=task.forward)
    sizes = {group.name: group.size for group in groups.groups}
    assert sizes["blocks.0.up"] == 48
    found = score(model, groups, name, observations(task, CPU, limit=32))
    assert {group: len(values) for group, values in found.items()} == sizes
    assert all(values.min() >= 0.0 and values.max() > 0.0 for values in found.values())


@pytest.mark.parametrize("measure", [one for one in MEASURES if one != "divergence"])
def test_every_sensitivity_of_weights(measure: str) -> None:
    task, model = nested_task(), encoder()
    settings = SensitivitySettings(sensitivity=measure, samples=16, tolerance=0.5, most_rounds=8)  # type: ignore[arg-type]
    weights = {name: weight for name, weight in model.named_parameters() if name.endswith("up.weight")}
    found = weight_sensitivity(
        model, weights, task, calibration_batches(task, settings, CPU), settings, torch.Generator().manual_seed(0)
    )
    assert all(float(diagonal.max()) > 0.0 for diagonal in found.diagonal.values())


def test_rises_of_the_loss_by_bits() -> None:
    task, model = nested_task(), encoder()
    space = BitWidth(
        model, task.example_inputs(), BitWidthSettings(weight_bits=(3, 8), activation_bits=(3, 8), first_last_bits=None)
    )
    most = dict.fromkeys(space.domains, 8)
    batches = calibration_batches(task, SensitivitySettings(samples=32, batch_size=16), CPU)

    def prepare(bits: dict[str, int]) -> torch.nn.Module:
        return space.prepare(model, Candidate(dict(bits)))

    some = list(most)[-2:]
    table = divergence_table(prepare, most, dict.fromkeys(some, (3, 8)), model, task, batches)  # type: ignore[arg-type]
    assert all(rises[3] > 0.0 == rises[8] for name, rises in table.items())
    assert loss_increases(prepare, most, dict.fromkeys(some, 3), task, batches).keys() == set(some)  # type: ignore[arg-type]
    prepared = prepare(most)
    paths = {place.path: (3,) for place in space.quantizers if place.kind == "activation"}
    rises = activation_increases(prepared, paths, task, batches, Quantizer.quantized)
    assert max(found[3] for found in rises.values()) > 0.0


def test_training_with_distillation() -> None:
    task, model = nested_task(), encoder()
    settings = TrainingSettings(epochs=1, batch_size=16, distillation=DistillationSettings())
    history = train(model, task, settings, seed=0, device=CPU, teacher=encoder())
    assert len(history.epochs) == 1
    recalibrate(model, task.batches("train", 16), task.forward)


def test_checks_of_loss_and_score() -> None:
    task, model = nested_task(), encoder()
    inputs, targets = next(iter(task.batches("search", 8)))
    require_informative_loss(task, task.forward(model, inputs), targets)
    require_dependent_loss(task, model, (inputs, targets))
    assert score_at_chance(model, task) is not None, "a network that was never trained is at chance"


def test_standard_errors_and_the_retention_of_relevance() -> None:
    task = nested_task()
    found = measure_with_errors(encoder(), task, "search")
    assert 0.0 < found.standard_errors["top1"] < 0.5
    space = lookup(SPACES, "channel_mask", "space")(encoder(), task.example_inputs(), forward=task.forward)
    candidate = space.sample(np.random.default_rng(0))
    small = Network(space.realize(encoder(), candidate), (space.transformation(candidate),))
    kept = Retention(Network(encoder()), task, CPU).of(small)
    assert kept is not None
    assert 0.0 < kept["chosen"] < 1.0


TRAINED = {"epochs": 1, "batch_size": 16}
SEARCHED = {"space": "channel_mask", "objectives": {"top1": "maximize"}, "evaluate": ["accuracy", "cost"]}
EVOLVED = {
    "space": "channel_mask",
    "algorithm": {"name": "evolution", "children": 2, "generations": 1, "steps": [[16, 1]]},
    "evaluate": [{"divergence": {"samples": 16, "pool": 32, "batch_norm_batches": 0}}, "cost"],
    "objectives": {"divergence": "minimize"},
    "target": {"macs": "<= 80%"},
    "reconstruct": {"images": 16},
}
STAGED: list[tuple[str, dict[str, Any]]] = [
    ("train", TRAINED),
    ("retrain", TRAINED),
    ("sparse_training", {**TRAINED, "sparsifier": {"name": "gradient_cut", "macs": 0.8}}),
    ("search", {**SEARCHED, "algorithm": {"name": "random", "evaluations": 2}, "reconstruct": {"images": 16}}),
    ("search", EVOLVED),
    ("reconstruct", {"images": 16}),
    ("fuse", {}),
    ("export", {"formats": ["onnx"]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), STAGED, ids=lambda value: value if isinstance(value, str) else "")
def test_every_stage(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert {one for one, _ in STAGED} == set(STAGES)
    check_stage(lookup(STAGES, name, "stage"), options, nested_task(), tmp_path)


@pytest.mark.parametrize("name", quick(BACKENDS, ["compile", "onnxruntime"]))
def test_every_backend(name: str) -> None:
    program = program_of(encoder(), nested_task(), 3, Conditions(backend=name))
    assert [tuple(entry.shape) for entry in program.inputs] == [(3, LENGTH), (3, LENGTH)]
    assert find_backend(name).build(program.content, program.inputs, "cpu", 1)() > 0.0


@pytest.mark.slow
def test_every_exported_form_names_its_inputs_and_takes_any_batch(tmp_path: Path) -> None:
    task, model, told = nested_task(), encoder(), list[str]()
    write_formats(tmp_path, model, task, ExportSettings(), told.append)
    assert told == []
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    assert [(one.name, one.type) for one in session.get_inputs()] == [("ids", "tensor(int64)"), ("mask", "tensor(bool)")]
    batch, _ = next(iter(task.batches("search", 7)))
    (answer,) = session.run(None, {name: entry.numpy() for name, entry in batch.items()})
    with torch.no_grad():
        expected = task.forward(model, batch)
    assert answer.shape == (7, CLASSES)
    torch.testing.assert_close(torch.from_numpy(answer), expected, rtol=1e-4, atol=1e-4)
    shorter = {name: entry[:, :2] for name, entry in batch.items()}
    (answer,) = session.run(None, {name: entry.numpy() for name, entry in shorter.items()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(answer), task.forward(model, shorter), rtol=1e-4, atol=1e-4)
    program = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(program(*batch.values()), expected, rtol=1e-4, atol=1e-4)


class Fixed(nn.Module):
    """Takes texts of one length only."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(WORDS, 4), nn.Linear(4 * LENGTH, CLASSES)

    def forward(self, ids: Tensor) -> Tensor:
        outputs: Tensor = self.head(self.embedding(ids).reshape(len(ids), 4 * LENGTH))
        return outputs


@pytest.mark.slow
def test_a_network_of_one_length_is_exported_for_it_and_that_is_said(tmp_path: Path) -> None:
    told: list[str] = []
    ids = torch.randint(0, WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    (answer,) = write_onnx(tmp_path, Fixed().eval(), ids, tell=told.append)
    assert answer.shape == (3, CLASSES)
    (line,) = told
    assert line.startswith(f"model.onnx takes texts of {LENGTH} tokens only: ")
    assert token_axes(ids.float()) is None


class Flagged(Fixed):
    """Takes a flag for every text, and then texts of one length only."""

    def forward(self, *entries: Tensor) -> Tensor:
        flag, ids = entries
        return super().forward(ids) * flag[:, None]


@pytest.mark.slow
def test_the_length_of_texts_behind_flags_of_theirs_is_that_of_the_ids(tmp_path: Path) -> None:
    told: list[str] = []
    ids = torch.randint(0, WORDS, (3, LENGTH), generator=torch.Generator().manual_seed(0))
    (answer,) = write_onnx(tmp_path, Flagged().eval(), (torch.ones(3).bool(), ids), ("flag", "ids"), told.append)
    assert answer.shape == (3, CLASSES)
    (line,) = told
    assert line.startswith(f"model.onnx takes texts of {LENGTH} tokens only: ")


@pytest.mark.slow
def test_a_quantized_encoder_is_exported_too(tmp_path: Path) -> None:
    task, model = nested_task(), encoder()
    space = BitWidth(model, task.example_inputs(), BitWidthSettings(weight_bits=(8,), activation_bits=(8,)))
    small = space.realize(model, space.sample(np.random.default_rng(0)))
    write_formats(tmp_path, small, task, ExportSettings(formats=("onnx",), tolerance=0.05))
    assert (tmp_path / "model.onnx").stat().st_size > 0


def test_merging_of_activations_is_compared_on_the_mapping() -> None:
    task = nested_task()
    assert fuse_activations(encoder(), task.example_inputs(), task.forward).error == 0.0


def test_filling_up_changes_no_answer() -> None:
    task, model = nested_task(), encoder()
    inputs, _ = next(iter(task.batches("search", 8)))
    sample = select(inputs, 1, 2)
    length = int(sample["mask"].sum())
    other = {**sample, "ids": torch.where(sample["mask"], sample["ids"], WORDS - 1)}
    with torch.no_grad():
        answers = [call(model, given) for given in (sample, other, {name: e[:, :length] for name, e in sample.items()})]
    for answer in answers[1:]:
        torch.testing.assert_close(answer, answers[0])
