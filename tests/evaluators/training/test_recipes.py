from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from evaluators.task import PixelScale
from evaluators.training.adapters import AdapterSettings
from evaluators.training.average import EmaSettings
from evaluators.training.checkpoint import FileCheckpoint
from evaluators.training.features import FeatureSettings
from evaluators.training.image_operations import ImageOperations, RandAugmentSettings
from evaluators.training.imported import ImportedSettings, OwnSchedule
from evaluators.training.loop import TrainingError, train
from evaluators.training.mixing import Mixing
from evaluators.training.optimizers import OptimizerSettings, make_optimizer
from evaluators.training.settings import DistillationSettings, EarlyStopSettings, TrainingSettings
from evaluators.training.shards import shard_statistics
from evaluators.training.state import end_of
from spaces.errors import SecateursError, UnsupportedModelError
from spaces.sparsifiers.gradient_cut import GradientCut, GradientCutSettings
from spaces.sparsifiers.scaling_factor import ScalingFactor, ScalingFactorSettings
from spaces.text_networks import TextEncoder
from tests.evaluators.small_task import digits_task

CPU = torch.device("cpu")
PLAIN = OptimizerSettings(lr=0.1, momentum=0.0, weight_decay=0.0)
ONE_STEP = TrainingSettings(
    epochs=1, batch_size=64, optimizer=PLAIN, schedule="constant", warmup=0.0, autocast="off", channels_last=False
)
OWN = "tests.evaluators.training.own_parts"
RECIPES = {
    "ema": {"ema": EmaSettings(0.9), "early_stop": EarlyStopSettings(9)},
    "mixing": {"mixup": 0.4, "cutmix": 1.0},
    "operations": {"rand_augment": RandAugmentSettings(), "erasing": 0.5},
    "shards": {"shards": 4, "mixup": 0.4},
    "clip": {"clip_value": 1e-3, "clip_norm": 0.01},
    "part": {"train_only": ("norms", "biases", "head"), "distillation": DistillationSettings()},
    "features": {"distillation": DistillationSettings(features=FeatureSettings(layers=("bn",)))},
    "adapters": {"adapters": AdapterSettings(rank=3), "train_only": ("norms", "classifier.bias")},
    "rates": {"optimizer": OptimizerSettings(no_decay=("classifier.*", "positions"), rates={"classifier": 3.0})},
    "own": {
        "optimizer": OptimizerSettings(f"{OWN}.Counting", lr=0.01),
        "schedule": ImportedSettings("torch.optim.lr_scheduler.StepLR", {"step_size": 3}),
        "loss": ImportedSettings(f"{OWN}.squared_error"),
    },
    "other": {"optimizer": OptimizerSettings("torch.optim.NAdam", lr=0.01), "schedule": ImportedSettings(f"{OWN}.falling")},
}


class KilledError(Exception):
    pass


def trained(settings, task=None, **options):
    task = task or digits_task(train_size=128)
    model = task.reference_model()
    teacher = task.build() if settings.distillation is not None else None
    history = train(model, task, settings, seed=2, device=CPU, teacher=teacher, **options)
    return model, history, task


def batches_of(task):
    """Return the list that the training batches of ``task`` will be in."""
    batches, original = [], task.batches
    task.batches = lambda *arguments, **keywords: batches.extend(found := list(original(*arguments, **keywords))) or found
    return batches


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_changes_the_training_and_is_resumed_to_the_same_bits(tmp_path, name):
    settings = TrainingSettings(epochs=3, batch_size=64, optimizer=OptimizerSettings(lr=0.05), autocast="off")
    recipe = replace(settings, **RECIPES[name])
    whole, history, _ = trained(recipe)

    def kill(record):
        raise KilledError

    checkpoint = FileCheckpoint(tmp_path / "state.safetensors")
    with pytest.raises(KilledError):
        trained(recipe, checkpoint=checkpoint, on_epoch=kill)
    resumed, again, _ = trained(recipe, checkpoint=checkpoint)
    assert all(
        torch.equal(one, other) for one, other in zip(*(one.state_dict().values() for one in (whole, resumed)), strict=True)
    )
    assert [replace(one, seconds=0.0) for one in again.epochs] == [replace(one, seconds=0.0) for one in history.epochs]
    weights, _ = end_of(checkpoint.packed())
    assert all(torch.equal(weights[key], tensor) for key, tensor in whole.state_dict().items())
    # Early stopping has tests of its own: here it only keeps the best epoch.
    for key in RECIPES[name].keys() - {"early_stop"}:
        without = replace(recipe, **{key: getattr(settings, key)})
        assert not torch.equal(trained(without)[0].classifier.bias, whole.classifier.bias), key


def test_the_average_is_what_is_scored_and_handed_on():
    seen = []

    def see(done, total):
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items() if tensor.is_floating_point()})

    task = digits_task(train_size=256)
    model = task.reference_model()
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    scored, original = [], task.score

    def score(outputs, targets):
        scored.append(model.classifier.weight.clone())
        return original(outputs, targets)

    task.score = score
    settings = replace(ONE_STEP, epochs=1, ema=EmaSettings(decay=0.2))
    train(model, task, settings, seed=0, device=CPU, on_step=see)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            expected = start[name]
            for step, own in enumerate(seen):
                decay = min(0.2, (1 + step) / (10 + step))
                expected = decay * expected + (1 - decay) * own[name]
            torch.testing.assert_close(tensor, expected)
    assert torch.equal(scored[-1], model.classifier.weight)
    assert not torch.equal(seen[-1]["classifier.weight"], model.classifier.weight)
    assert int(model.bn.num_batches_tracked) == 4


def test_mixed_batches_are_those_of_mixed_targets():
    images, labels = torch.rand(8, 3, 6, 6), torch.arange(8) % 4
    shares, rows = torch.randn(8, 4), F.one_hot(labels, 4).float()
    for mixing in (Mixing(0.5, None), Mixing(None, 1.0)):
        found = [mixing.mix(images, labels, seed) for seed in range(6)]
        again = mixing.mix(images, labels, 3)
        assert torch.equal(again.inputs, found[3].inputs)
        assert again.share == found[3].share
        assert len({one.share for one in found}) > 3
        assert torch.equal(found[0].others, labels.roll(1))
        for mixed in found:
            weights = mixed.share * rows + (1 - mixed.share) * rows.roll(1, 0)
            own, other = F.cross_entropy(shares, mixed.targets), F.cross_entropy(shares, mixed.others)
            torch.testing.assert_close(mixed.share * own + (1 - mixed.share) * other, F.cross_entropy(shares, weights))
    mixed = Mixing(0.5, None).mix(images, labels, 0)
    torch.testing.assert_close(mixed.inputs, mixed.share * images + (1 - mixed.share) * images.roll(1, 0))
    cut = Mixing(None, 1.0).mix(images, labels, 1)
    own = (cut.inputs == images).all(1)
    assert float(own.float().mean()) == pytest.approx(cut.share)
    assert bool(((cut.inputs == images) | (cut.inputs == images.roll(1, 0))).all())
    kinds = {bool((Mixing(0.5, 0.5).mix(images, labels, seed).inputs == images).any()) for seed in range(12)}
    assert kinds == {True, False}


def test_the_loss_of_a_mixed_batch_is_what_the_loop_trains_on():
    task = digits_task(train_size=64)
    model, expected = task.build(), task.build()
    expected.load_state_dict(model.state_dict())
    model.dropout.p = expected.dropout.p = 0.0
    mixes, original = [], Mixing.mix
    batch = batches_of(task)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mixing, "mix", lambda *arguments: mixes.append(original(*arguments)) or mixes[-1])
        history = train(model, task, replace(ONE_STEP, mixup=1.0), seed=0, device=CPU)
    (mixed,) = mixes
    shares = mixed.share * F.one_hot(mixed.targets, 10) + (1 - mixed.share) * F.one_hot(mixed.others, 10)
    loss = F.cross_entropy(expected.train()(mixed.inputs), shares.float())
    assert history.epochs[0].loss == pytest.approx(float(loss.detach()), rel=1e-5)
    assert any(torch.equal(mixed.targets, targets) for _, targets in batch)


def test_every_image_is_changed_by_its_own_seed():
    task = digits_task()
    images, _ = next(iter(task.batches("train", 32)))
    whole = ImageOperations(RandAugmentSettings(magnitude=15), 0.5, task.pixel_scale)
    seeds = list(range(100, 132))
    before, state = images.clone(), torch.get_rng_state()
    changed = whole.apply(images, seeds)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert torch.equal(whole.apply(images[8:16], seeds[8:16]), changed[8:16])
    erased = ImageOperations(None, 1.0, None).apply(images, seeds)
    assert 0 < int((erased != images).flatten(1).any(1).sum()) <= 32
    assert bool(((erased == images) | (erased == 0)).all())
    augmented = ImageOperations(RandAugmentSettings(), 0.0, task.pixel_scale).apply(images, seeds)
    assert int((augmented - images).abs().amax((1, 2, 3)).gt(0.1).sum()) > 16


def test_bytes_come_back_from_normalized_images():
    scale, pixels = PixelScale((0.485, 0.4, 0.3), (0.2, 0.3, 0.25)), torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    pixels = pixels.expand(2, 3, 16, 16)
    assert torch.equal(scale.pixels(scale.normalized(pixels, torch.float32)), pixels)


def linear_task():
    """Return a task whose network has no BatchNorm and no dropout, so that shards change nothing but the last bits."""
    task = digits_task(train_size=64)
    task.build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    weights = task.build().state_dict()

    def reference_model():
        model = task.build()
        model.load_state_dict(weights)
        return model

    task.reference_model = reference_model
    return task


@pytest.mark.parametrize("options", [{}, {"mixup": 1.0}, {"clip_norm": 0.1}, {"ema": EmaSettings(0.5)}])
def test_the_gradients_of_shards_add_up_to_those_of_the_batch(options):
    task, sizes = linear_task(), []
    whole, history, _ = trained(replace(ONE_STEP, **options), task)
    original = task.loss
    task.loss = lambda outputs, targets, smoothing=0.0: sizes.append(len(outputs)) or original(outputs, targets, smoothing)
    parts, again, _ = trained(replace(ONE_STEP, shards=4, **options), task)
    assert sizes.count(16) == (8 if "mixup" in options else 4)
    assert again.epochs[0].loss == pytest.approx(history.epochs[0].loss, rel=1e-5)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_the_penalty_of_a_sparsifier_counts_once_whatever_the_shards():
    losses = {}
    for shards in (None, 4):
        for strength in (0.0, 0.1):
            sparsifier = ScalingFactor(ScalingFactorSettings(strength=strength))
            settings = replace(ONE_STEP, shards=shards, optimizer=replace(PLAIN, lr=1e-9))
            losses[shards, strength] = trained(settings, digits_task(train_size=64), sparsifier=sparsifier)[1].epochs[0].loss
    assert losses[None, 0.1] - losses[None, 0.0] == pytest.approx(losses[4, 0.1] - losses[4, 0.0], rel=1e-3)
    assert losses[4, 0.1] > losses[4, 0.0] + 0.1


def test_running_statistics_move_once_a_step_by_the_mean_over_the_shards():
    layer, inputs = nn.BatchNorm1d(3, momentum=0.3), torch.randn(24, 3)
    expected = 0.7 * layer.running_mean + 0.3 * inputs.reshape(4, 6, 3).mean((0, 1))
    variance = 0.7 * layer.running_var + 0.3 * inputs.reshape(4, 6, 3).var(1).mean(0)
    for shard in range(4):
        with shard_statistics(layer, shard, 4):
            layer(inputs[6 * shard : 6 * shard + 6])
    torch.testing.assert_close(layer.running_mean, expected)
    torch.testing.assert_close(layer.running_var, variance)
    assert int(layer.num_batches_tracked) == 1
    assert layer.momentum == 0.3


def test_the_time_of_all_steps_is_known_by_part(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "state.safetensors")
    first = trained(replace(ONE_STEP, epochs=2), checkpoint=checkpoint, until=1)[1].seconds
    both = trained(replace(ONE_STEP, epochs=2), checkpoint=checkpoint)[1].seconds
    assert list(both) == ["data", "forward", "backward", "optimizer"]
    assert all(both[part] > first[part] > 0 for part in both)


def test_clip_value_limits_every_element_of_the_gradient():
    model, _, task = trained(replace(ONE_STEP, clip_value=1e-4), digits_task(train_size=64))
    moved = [
        (new - old).abs().max() for new, old in zip(*(one.parameters() for one in (model, task.reference_model())), strict=True)
    ]
    assert float(max(moved).detach()) == pytest.approx(0.1 * 1e-4, rel=1e-2)


def test_layers_have_their_own_rates():
    rates = {"conv.bias": 0.5, "conv": 2.0}
    plain, _, task = trained(ONE_STEP, digits_task(train_size=64))
    model, _, _ = trained(replace(ONE_STEP, optimizer=replace(PLAIN, rates=rates)), digits_task(train_size=64))
    start = dict(task.reference_model().named_parameters())
    scheduled = {name: parameter - start[name] for name, parameter in plain.named_parameters()}
    for name, parameter in model.named_parameters():
        factor = {"conv.bias": 0.5, "conv.weight": 2.0}.get(name, 1.0)
        torch.testing.assert_close(parameter - start[name], factor * scheduled[name], rtol=1e-3, atol=1e-6)


def test_decay_spares_positions_and_patterns():
    model = TextEncoder(20, 3, 1, 8, 2, 8, 8, 0.0, causal=False)
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def spared(**options):
        groups = make_optimizer(model, OptimizerSettings(**options)).param_groups
        return {names[id(one)] for group in groups if group["weight_decay"] == 0.0 for one in group["params"]}

    assert spared() == set()
    assert all(model.get_parameter(name).ndim > 1 for name in spared(no_decay=("positions",)))
    assert len(spared(no_decay=("positions",))) == 1
    assert spared(no_decay=("*.weight",)) == {name for name in names.values() if name.endswith("weight")}
    assert spared(decay_norms=False) == {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    with pytest.raises(UnsupportedModelError, match="'classifer' matches no parameter .*nearest"):
        spared(no_decay=("classifer",))
    with pytest.raises(UnsupportedModelError, match="'clasifier' matches no parameter"):
        spared(rates={"clasifier": 2.0})


@pytest.mark.parametrize(
    ("parts", "moved"),
    [
        (("norms",), {"bn.weight"}),
        (("biases",), {"conv.bias", "bn.bias", "classifier.bias"}),
        (("head",), {"classifier.weight", "classifier.bias"}),
        (("norms", "conv"), {"bn.weight", "conv.weight", "conv.bias"}),
    ],
)
def test_only_some_parts_are_trained(parts, moved):
    model, _, task = trained(replace(ONE_STEP, train_only=parts, optimizer=OptimizerSettings()), digits_task(train_size=64))
    start = dict(task.reference_model().named_parameters())
    assert {name for name, parameter in model.named_parameters() if not torch.equal(parameter, start[name])} == moved
    assert all(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(UnsupportedModelError, match="'cov' matches no parameter"):
        trained(replace(ONE_STEP, train_only=("cov",)))


def test_the_head_is_the_layer_called_last_whatever_comes_first_in_the_network():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.first = nn.Linear(4, 10), nn.Conv2d(1, 1, 4, stride=4)

        def forward(self, inputs):
            return self.last(self.first(inputs).flatten(1))

    task = digits_task(train_size=64)
    task.build = Backwards
    model = Backwards()
    start = model.first.weight.clone()
    train(model, task, replace(ONE_STEP, train_only=("head",)), seed=0, device=CPU)
    assert torch.equal(start, model.first.weight)


def test_a_loss_of_ones_own_is_trained_on_and_the_tasks_is_measured():
    settings = replace(ONE_STEP, loss=ImportedSettings(f"{OWN}.squared_error", {"weight": 2.0}))
    task = digits_task(train_size=64)
    model = task.build()
    model.dropout.p = 0.0
    fresh = task.build()
    fresh.dropout.p = 0.0
    fresh.load_state_dict(model.state_dict())
    batch = batches_of(task)
    history = train(model, task, settings, seed=0, device=CPU)
    found = [
        2 * (fresh.train()(inputs) - F.one_hot(targets, 10)).square().sum(1).mean()
        for inputs, targets in batch
        if len(inputs) == 64
    ]
    assert any(history.epochs[0].loss == pytest.approx(float(one.detach()), rel=1e-5) for one in found)
    task = digits_task(train_size=64)
    same = ImportedSettings("torch.nn.CrossEntropyLoss", {"label_smoothing": 0.1})
    losses = [trained(replace(ONE_STEP, **option))[1].epochs for option in ({"loss": same}, {"label_smoothing": 0.1})]
    assert losses[0][0].loss == losses[1][0].loss
    assert losses[0][0].search_loss == losses[1][0].search_loss


def test_schedules_of_ones_own_give_the_rate_of_every_step():
    rates = []
    settings = replace(ONE_STEP, epochs=2, schedule=ImportedSettings(f"{OWN}.falling", {"power": 2}))
    history = trained(settings, on_step=lambda done, total: rates.append(done))[1]
    assert [record.lr for record in history.epochs] == pytest.approx([0.1 * (1 - step / 4) ** 2 for step in (1, 3)])
    stepped = OwnSchedule(ImportedSettings("torch.optim.lr_scheduler.MultiStepLR", {"milestones": [2, 4], "gamma": 0.5}))
    assert [stepped.factor(step, 6) for step in (5, 0, 1, 2, 3, 4)] == [0.25, 1.0, 1.0, 0.5, 0.5, 0.25]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: OptimizerSettings("sdg"), "^name: did you mean 'sgd'"),
        (lambda: OptimizerSettings("torch.optim.Adan"), "^name: .*has no 'Adan'; did you mean 'Adam'"),
        (lambda: OptimizerSettings("torch.nn.Linear"), "^name: expected a class that derives from torch.optim.Optimizer"),
        (lambda: OptimizerSettings("torch.optim.LBFGS"), "^name: expected an optimizer that computes the loss once"),
        (lambda: OptimizerSettings(arguments={"eps": 1.0}), "^arguments: expected the import path"),
        (lambda: OptimizerSettings(rates={"a": 0.0}), "^rates.a: expected a factor above 0"),
        (lambda: ImportedSettings("mse"), "^name: expected an import path"),
        (lambda: ImportedSettings("torch.pi"), "^name: expected a function or a class"),
        (lambda: EmaSettings(1.0), "^decay: expected"),
        (lambda: RandAugmentSettings(0), "^operations: expected"),
        (lambda: RandAugmentSettings(1, 31), "^magnitude: expected"),
        (lambda: TrainingSettings(1, clip_value=0.0), "^clip_value: expected"),
        (lambda: TrainingSettings(1, mixup=0.0), "^mixup: expected"),
        (lambda: TrainingSettings(1, cutmix=-1.0), "^cutmix: expected"),
        (lambda: TrainingSettings(1, erasing=2.0), "^erasing: expected"),
        (lambda: TrainingSettings(1, 64, shards=0), "^shards: expected at least 1"),
        (
            lambda: TrainingSettings(1, 64, shards=7),
            "^shards: expected .* multiple of 7.*got 64; the nearest is 63",
        ),
        (lambda: TrainingSettings(1, 4, shards=4), "^shards: expected .*the nearest is 8"),
        (lambda: TrainingSettings(1, train_only=()), "^train_only: expected"),
        (
            lambda: TrainingSettings(1, label_smoothing=0.1, loss=ImportedSettings("torch.nn.MSELoss")),
            "^label_smoothing: expected 0",
        ),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("options", "sparsifier", "message"),
    [
        ({"ema": EmaSettings()}, GradientCut(GradientCutSettings()), "ema: GradientCut takes channels to zero"),
        ({"train_only": ("head",)}, ScalingFactor(ScalingFactorSettings()), "train_only: ScalingFactor acts on"),
        ({"adapters": AdapterSettings()}, ScalingFactor(ScalingFactorSettings()), "adapters: ScalingFactor acts on"),
        (
            {"optimizer": OptimizerSettings("torch.optim.Rprop", arguments={"beta": 1})},
            None,
            "optimizer: torch.optim.Rprop called",
        ),
        ({"loss": ImportedSettings("torch.nn.MSELoss", {"sum": 1})}, None, "loss: torch.nn.MSELoss called with"),
        (
            {"loss": ImportedSettings("torch.nn.functional.mse_loss")},
            None,
            "loss: torch.nn.functional.mse_loss failed on a batch",
        ),
        ({"loss": ImportedSettings(f"{OWN}.no_tensor")}, None, "loss: expected .*no_tensor to return a tensor"),
        ({"schedule": ImportedSettings("torch.optim.lr_scheduler.StepLR")}, None, "schedule: .*StepLR called with {} failed"),
        (
            {"schedule": ImportedSettings("torch.optim.lr_scheduler.ReduceLROnPlateau")},
            None,
            "schedule: .*ReduceLROnPlateau follows a score",
        ),
        ({"schedule": ImportedSettings(f"{OWN}.negative")}, None, "schedule: expected a number of at least 0 of"),
    ],
)
def test_what_does_not_fit_is_named(options, sparsifier, message):
    with pytest.raises(SecateursError, match=message):
        trained(replace(ONE_STEP, **options), digits_task(train_size=64), sparsifier=sparsifier)


def test_a_state_that_no_checkpoint_holds_is_named(tmp_path):
    settings = replace(ONE_STEP, optimizer=OptimizerSettings(f"{OWN}.Hoarding"))
    with pytest.raises(TrainingError, match="Hoarding keeps 'history' of type list"):
        trained(settings, digits_task(train_size=64), checkpoint=FileCheckpoint(tmp_path / "state.safetensors"))


def test_images_are_asked_for_where_they_are_changed():
    task = digits_task(train_size=64)
    task.pixel_scale = None
    with pytest.raises(TrainingError, match="rand_augment: works on pixels"):
        trained(replace(ONE_STEP, rand_augment=RandAugmentSettings()), task)
    task.labels = lambda targets: None
    with pytest.raises(TrainingError, match="cutmix: expected a task with one class"):
        trained(replace(ONE_STEP, cutmix=1.0), task)
    original = task.batches
    task.batches = lambda *arguments, **keywords: (
        (inputs.flatten(1), targets) for inputs, targets in original(*arguments, **keywords)
    )
    with pytest.raises(TrainingError, match=r"erasing: expected images, .* got inputs of shape \(2, 64\)"):
        trained(replace(ONE_STEP, erasing=0.5), task)
