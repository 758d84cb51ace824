import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from evaluators.tasks.measure import measure
from evaluators.training.hardware import has_fast_bfloat16
from evaluators.training.loop import DivergedError, TrainingError, train
from evaluators.training.optimizers import OptimizerSettings, make_optimizer
from evaluators.training.schedules import learning_rate_factor
from evaluators.training.settings import DistillationSettings, EarlyStopSettings, TrainingSettings
from spaces.sparsifiers.base import Sparsifier
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
SETTINGS = TrainingSettings(epochs=2, batch_size=64, optimizer=OptimizerSettings(lr=0.1), autocast="off")


def trained(settings=SETTINGS, task=None, seed=0, **options):
    task = task or digits_task()
    model = task.reference_model()
    history = train(model, task, settings, seed=seed, device=CPU, **options)
    return model, history, task


def same(first: nn.Module, second: nn.Module) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_a_good_network_comes_out():
    task = digits_task("spaces.networks.digits_cnn", train_size=None, width=8)
    settings = TrainingSettings(epochs=8, batch_size=64, optimizer=OptimizerSettings(lr=0.2))
    model, history, _ = trained(settings, task)
    assert history.epochs[-1].search_score > 0.95
    assert history.epochs[-1].loss < history.epochs[0].loss / 4
    measured = measure(model, task, "search")
    assert measured["top1"] == history.epochs[-1].search_score
    assert measured["loss"] == history.epochs[-1].search_loss
    assert [record.epoch for record in history.epochs] == list(range(1, 9))


def test_same_seed_same_bits_and_the_global_generator_is_left_alone():
    state = torch.get_rng_state()
    first, second, other = trained()[0], trained()[0], trained(seed=1)[0]
    assert same(first, second)
    assert not same(first, other)
    assert torch.equal(state, torch.get_rng_state())


def test_the_model_comes_back_in_evaluation_mode_and_plain_layout():
    model, _, _ = trained(replace(SETTINGS, epochs=1))
    assert not any(module.training for module in model.modules())
    assert all(tensor.is_contiguous() for tensor in model.state_dict().values())


def test_one_step_equals_a_step_by_hand():
    task = digits_task(train_size=64)
    settings = replace(SETTINGS, epochs=1, schedule="constant", warmup=0.0, label_smoothing=0.1, channels_last=False)
    settings = replace(settings, optimizer=OptimizerSettings(lr=0.3, momentum=0.0, weight_decay=0.01))
    model, expected = task.build(), task.build()
    model.dropout.p = expected.dropout.p = 0.0
    batches = []
    original = task.batches
    task.batches = lambda *arguments, **keywords: batches.extend(found := list(original(*arguments, **keywords))) or found
    history = train(model, task, settings, seed=0, device=CPU)
    inputs, targets = batches[0]
    loss = nn.functional.cross_entropy(expected.train()(inputs), targets, label_smoothing=0.1)
    loss.backward()
    assert history.epochs[0].loss == pytest.approx(float(loss.detach()))
    for parameter, found in zip(expected.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found, parameter - 0.3 * (parameter.grad + 0.01 * parameter))


def test_distillation_mixes_the_losses_and_leaves_the_teacher_as_it_was():
    task = digits_task(train_size=64)
    teacher = task.build().train()
    settings = replace(SETTINGS, epochs=1, channels_last=False)
    student = task.build()
    student.dropout.p = 0.0
    start = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    mixed = replace(settings, distillation=DistillationSettings(weight=0.25, temperature=3.0))
    batches = []
    original = task.batches
    task.batches = lambda *arguments, **keywords: batches.extend(found := list(original(*arguments, **keywords))) or found
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    history = train(student, task, mixed, seed=0, device=CPU, teacher=teacher)
    assert teacher.training
    assert teacher.dropout.training
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.state_dict().items())
    student.load_state_dict(start)
    inputs, targets = batches[0]
    with torch.no_grad():
        outputs, answers = student.train()(inputs), teacher.eval()(inputs)
    hard = nn.functional.cross_entropy(outputs, targets)
    log_p, log_q = (outputs / 3).log_softmax(1), (answers / 3).log_softmax(1)
    soft = (log_q.exp() * (log_q - log_p)).sum(1).mean() * 9
    assert history.epochs[0].loss == pytest.approx(float(0.75 * hard + 0.25 * soft), rel=1e-5)


def test_early_stop_keeps_the_best_epoch():
    scores = iter([0.3, 0.8, 0.5, 0.8, 0.9])
    task = digits_task(train_size=64)
    kept, model = [], task.reference_model()
    original = task.score
    task.score = lambda outputs, targets: {"top1": torch.full_like(original(outputs, targets)["top1"], next(scores))}
    settings = replace(SETTINGS, epochs=5, early_stop=EarlyStopSettings(patience=2))
    history = train(
        model,
        task,
        settings,
        seed=0,
        device=CPU,
        on_epoch=lambda _: kept.append({k: v.clone() for k, v in model.state_dict().items()}),
    )
    assert [record.search_score for record in history.epochs] == pytest.approx([0.3, 0.8, 0.5, 0.8])
    assert "has not risen for 2 epochs" in history.stopped_early
    assert history.best.epoch == 2
    assert all(torch.equal(kept[1][name], tensor) for name, tensor in model.state_dict().items())
    assert not torch.equal(kept[3]["conv.weight"], model.conv.weight)


def test_a_loss_that_is_no_number_is_named_and_not_saved():
    task = digits_task()
    original, calls = task.loss, []

    def loss(outputs, targets, label_smoothing=0.0):
        calls.append(1)
        return original(outputs, targets) * (math.nan if len(calls) == 3 else 1.0)

    task.loss = loss
    saved = []

    class Remember:
        def load(self):
            return None

        def save(self, tensors, data):
            saved.append(data)

    with pytest.raises(DivergedError, match=r"became nan at step 3 of epoch 1 .*lower optimizer.lr"):
        train(task.reference_model(), task, SETTINGS, seed=0, device=CPU, checkpoint=Remember())
    assert not saved


def test_what_cannot_be_trained_is_named():
    task = digits_task(train_size=50)
    with pytest.raises(TrainingError, match="batch_size 64 is larger than the training split of 50 samples"):
        train(task.reference_model(), task, SETTINGS, seed=0, device=CPU)
    task, settings = digits_task(), replace(SETTINGS, distillation=DistillationSettings())
    with pytest.raises(TrainingError, match="no reference network"):
        train(task.reference_model(), task, settings, seed=0, device=CPU)
    model = task.reference_model()
    with pytest.raises(TrainingError, match="give it a copy"):
        train(model, task, settings, seed=0, device=CPU, teacher=model)
    with pytest.raises(TrainingError, match="no parameter that requires a gradient"):
        train(model.requires_grad_(False), task, SETTINGS, seed=0, device=CPU)


class Recording(Sparsifier):
    """Notes the hooks, adds a penalty, and is finished after ``aim`` steps."""

    def __init__(self, aim: int = 10**9) -> None:
        self.calls: list[str] = []
        self.aim = aim
        self.total_steps = 0

    def start(self, model, total_steps):
        self.total_steps = total_steps
        self.weight = next(model.parameters())

    def before_forward(self, inputs, targets):
        assert inputs.shape[1:] == (1, 8, 8)
        assert targets.dtype == torch.int64
        self.calls.append("before_forward")

    def penalty(self):
        self.calls.append("penalty")
        return 0.5 + 0 * self.weight.sum()

    def after_backward(self):
        assert self.weight.grad is not None
        self.calls.append("after_backward")

    def after_step(self):
        self.calls.append("after_step")

    @property
    def finished(self):
        return self.calls.count("after_step") >= self.aim


def test_the_sparsifiers_hooks_run_in_order_and_its_penalty_counts():
    plain = trained()[1]
    sparsifier = Recording()
    _model, history, _ = trained(sparsifier=sparsifier)
    assert sparsifier.total_steps == 8
    assert sparsifier.calls == ["before_forward", "penalty", "after_backward", "after_step"] * 8
    assert [r.loss for r in history.epochs] == pytest.approx([r.loss + 0.5 for r in plain.epochs], rel=1e-5)


def test_a_finished_sparsifier_ends_training_only_where_asked():
    assert len(trained(sparsifier=Recording(aim=3))[1].epochs) == 2
    history = trained(sparsifier=Recording(aim=3), stop_when_finished=True)[1]
    assert len(history.epochs) == 1
    assert "Recording has reached its aim" in history.stopped_early


def test_on_step_counts_to_the_total():
    counted = []
    trained(on_step=lambda done, total: counted.append((done, total)))
    assert counted == [(number, 8) for number in range(1, 9)]


def test_clip_norm_limits_the_gradient():
    settings = replace(SETTINGS, epochs=1, schedule="constant", warmup=0.0, clip_norm=1e-6)
    settings = replace(settings, optimizer=OptimizerSettings(lr=1.0, momentum=0.0, weight_decay=0.0))
    model, _, task = trained(settings)
    start = task.reference_model()
    for new, old in zip(model.parameters(), start.parameters(), strict=True):
        assert float((new - old).detach().norm()) < 1e-5


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_schedules_rise_to_one_and_fall_as_they_should(schedule):
    factors = [learning_rate_factor(schedule, step, 100, 0.3) for step in range(100)]
    assert max(factors) == pytest.approx(1.0)
    assert factors.index(max(factors)) in (29, 30)
    assert all(a <= b + 1e-12 for a, b in itertools.pairwise(factors[:30]))
    assert all(a >= b for a, b in itertools.pairwise(factors[30:]))
    assert (factors[-1] == 1.0) if schedule == "constant" else (factors[-1] < 1e-2)
    assert all(0 < factor <= 1 for factor in factors)
    assert learning_rate_factor(schedule, 0, 1, 0.0) == 1.0


def test_weight_decay_may_spare_norms_and_biases():
    model = digits_task().build()
    spared = make_optimizer(model, OptimizerSettings(decay_norms=False)).param_groups
    assert [group["weight_decay"] for group in spared] == [5e-4, 0.0]
    assert [len(group["params"]) for group in spared] == [2, 4]
    assert len(make_optimizer(model, OptimizerSettings()).param_groups) == 1
    assert isinstance(make_optimizer(model, OptimizerSettings(name="adamw")), torch.optim.AdamW)


@pytest.mark.parametrize(
    ("kind", "options", "field"),
    [
        (TrainingSettings, {"epochs": 0}, "epochs"),
        (TrainingSettings, {"epochs": 1, "warmup": 1.0}, "warmup"),
        (TrainingSettings, {"epochs": 1, "clip_norm": 0.0}, "clip_norm"),
        (TrainingSettings, {"epochs": 1, "label_smoothing": -0.1}, "label_smoothing"),
        (OptimizerSettings, {"lr": 0.0}, "lr"),
        (OptimizerSettings, {"name": "adamw", "nesterov": True}, "nesterov"),
        (DistillationSettings, {"weight": 1.5}, "weight"),
        (DistillationSettings, {"temperature": 0.0}, "temperature"),
        (EarlyStopSettings, {"patience": 0}, "patience"),
    ],
)
def test_settings_out_of_range_are_refused(kind, options, field):
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        kind(**options)


def test_autocast_follows_the_hardware_not_the_name(monkeypatch):
    for capabilities, expected in [({"avx2": True, "amx_bf16": False}, False), ({"avx512_bf16": True}, True), ({}, False)]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert has_fast_bfloat16(CPU) is expected
