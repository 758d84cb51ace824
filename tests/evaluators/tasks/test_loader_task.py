"""Loaders as a task: which samples they select, what their batches hold, and loaders that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from evaluators.meters import MeterError
from evaluators.tasks.loader_samples import LoaderError
from evaluators.tasks.loader_task import LoaderTask
from evaluators.tasks.measure import measure
from evaluators.training.loop import TrainingError, train
from evaluators.training.optimizers import OptimizerSettings
from evaluators.training.settings import DistillationSettings, EarlyStopSettings, TrainingSettings

SAMPLES = 20
DATA = TensorDataset(torch.arange(float(SAMPLES))[:, None].repeat(1, 4), torch.arange(SAMPLES) % 3)


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, outputs)


def loader(dataset: Any = DATA, **options: Any) -> DataLoader[Any]:
    return DataLoader(dataset, **({"batch_size": 5} | options))


def task(train: Any = None, search: Any = None, test: Any = None, model: nn.Module | None = None, **options: Any) -> LoaderTask:
    train, search = (loader() if given is None else given for given in (train, search))
    return LoaderTask(model or network(), train, search, test, **options)


def seen(made: LoaderTask, split: Any, generator: torch.Generator | None = None) -> list[int]:
    return [int(row[0]) for inputs, _ in made.batches(split, 2, generator) for row in inputs]


class Every(Sampler[int]):
    """Every ``step``-th position."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __iter__(self) -> Iterator[int]:
        return iter(range(0, SAMPLES, self.step))


class Shuffled(Every):
    """The same, in a random order."""

    def __iter__(self) -> Iterator[int]:
        return iter([self.step * index for index in torch.randperm(SAMPLES // self.step).tolist()])


class Fickle(Every):
    """Other positions each time."""

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(SAMPLES)[:4].tolist())


class Endless(Every):
    """Positions without an end."""

    def __iter__(self) -> Iterator[int]:
        while True:
            yield 0


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampler": SubsetRandomSampler([3, 1, 7])}, [1, 3, 7]),
        ({"sampler": Every(4)}, [0, 4, 8, 12, 16]),
        ({"sampler": Shuffled(4)}, [0, 4, 8, 12, 16]),
        ({"batch_size": 1, "batch_sampler": BatchSampler(SubsetRandomSampler([2, 9, 4]), 2, False)}, [2, 4, 9]),
        ({"batch_size": 1, "batch_sampler": BatchSampler(SequentialSampler(range(7)), 3, True)}, list(range(6))),
        ({"batch_size": 6, "drop_last": True}, list(range(18))),
        ({"sampler": Every(4), "batch_size": 3, "drop_last": True}, [0, 4, 8]),
        ({"shuffle": True}, list(range(SAMPLES))),
    ],
)
@pytest.mark.parametrize("split", ["train", "search", "test"])
def test_a_split_is_the_samples_that_its_loader_gives(split: str, options: dict[str, Any], expected: list[int]) -> None:
    made = task(**{split: loader(**options)})
    assert sorted(seen(made, split)) == expected
    assert made.size(split) == len(expected)  # type: ignore[arg-type]
    shuffled = seen(made, split, torch.Generator().manual_seed(0))
    assert set(shuffled) <= set(expected)
    assert len(shuffled) == len(expected) // 2 * 2


def test_a_sampler_is_part_of_what_a_run_is_resumed_on() -> None:
    first, other = (task(search=loader(sampler=SubsetRandomSampler([*range(10), last]))) for last in (11, 12))
    assert first.fingerprint != other.fingerprint
    assert first.fingerprint == task(search=loader(sampler=SubsetRandomSampler([*range(10), 11]))).fingerprint


def test_reading_a_sampler_leaves_the_global_generator_as_it_is() -> None:
    model = network()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    task(train=loader(sampler=Shuffled(4)), model=model)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_weights_of_a_sampler_decide_how_often_a_sample_is_trained_on() -> None:
    weights = torch.zeros(SAMPLES)
    weights[[2, 5]] = torch.tensor([9.0, 1.0])
    made = task(train=loader(sampler=WeightedRandomSampler(weights, 400)))
    for drawn in (seen(made, "train"), seen(made, "train", torch.Generator().manual_seed(1))):
        assert len(drawn) == 400
        assert set(drawn) == {2, 5}
        assert 330 < drawn.count(2) < 385
    assert seen(made, "train") == seen(made, "train")
    fewer = task(train=loader(sampler=RandomSampler(DATA, num_samples=6)))
    assert len(set(seen(fewer, "train"))) == fewer.size("train") == 6


@pytest.mark.parametrize("split", ["search", "test"])
def test_a_score_over_other_samples_each_time_is_refused(split: str) -> None:
    weighted = WeightedRandomSampler(torch.ones(SAMPLES), SAMPLES)
    for options in ({"sampler": weighted}, {"sampler": RandomSampler(DATA, num_samples=6)}):
        with pytest.raises(LoaderError, match=f"the loader '{split}': .* draws other samples in every epoch.*Subset"):
            task(**{split: loader(**options)})
    with pytest.raises(LoaderError, match="drop_last with a random order leaves out 2 other samples"):
        task(**{split: loader(batch_size=6, shuffle=True, drop_last=True)})


class Whole(Dataset[Any]):
    """Whole batches."""

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)


class Stream(IterableDataset[Any]):
    """Samples without positions."""

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter([(torch.zeros(4), 0)] * 8)


class Counted(Stream):
    """The same with a length."""

    def __len__(self) -> int:
        return 8


class Pairs(BatchSampler):
    """Batches of its own."""


class Moved(DataLoader[Any]):
    """A loader that changes its batches."""

    def __iter__(self) -> Any:
        return iter([(inputs + 1, targets) for inputs, targets in super().__iter__()])


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "an iterable data set": (lambda: loader(Stream()), r"iterable only: pass its samples as a list"),
    "one with a length": (lambda: loader(Counted()), r"iterable only"),
    "batches of its own": (
        lambda: DataLoader(DATA, batch_sampler=Pairs(SequentialSampler(DATA), 2, False)),
        r"batch_sampler of type Pairs.*sampler=",
    ),
    "whole batches": (lambda: DataLoader(Whole(), batch_size=None), r"batch_size=None"),
    "an iterator of its own": (lambda: Moved(DATA, batch_size=5), r"Moved makes its batches in an __iter__ of its own"),
    "no loader": (lambda: 3, r"expected a torch DataLoader, or a list .* iterated again; got a int"),
    "an iterator": (lambda: iter([(torch.zeros(2, 4), torch.zeros(2))]), r"iterated again; got a list_iterator"),
    "a list of inputs": (lambda: [torch.zeros(2, 4)] * 3, r"got a Tensor"),
    "a list of mappings": (lambda: [{"ids": torch.zeros(2), "labels": torch.zeros(2)}], r"got a mapping with ids, labels"),
    "no tensors": (lambda: [("text", torch.zeros(4))], r"got a str|a row per sample"),
    "an empty list": (lambda: [], r"gives no batch"),
    "other samples each time": (lambda: loader(sampler=Fickle(1)), r"Fickle gives other samples each time"),
    "an endless sampler": (lambda: loader(sampler=Endless(1)), r"Endless does not end"),
    "nothing": (lambda: loader(Subset(DATA, [])), r"gives no batch.*at least one sample"),
    "nothing of a sampler": (lambda: loader(sampler=SubsetRandomSampler([])), r"gives no batch"),
    "less than a batch": (lambda: loader(batch_size=50, drop_last=True), r"gives no batch.*drop_last"),
    "no targets": (
        lambda: loader(TensorDataset(torch.zeros(9, 4))),
        r"gives \(inputs, targets\); got a tuple of 1",
    ),
}


@pytest.mark.parametrize("split", ["train", "search", "test"])
@pytest.mark.parametrize("kind", REFUSED)
def test_loaders_that_can_not_be_kept_to_are_refused_in_every_split(split: str, kind: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(LoaderError, match=rf"(?s)^the loader '{split}': .*{message}"):
        task(**{split: make()})


def test_integers_are_handed_on_as_they_are_and_floating_point_numbers_as_float32() -> None:
    for dtype, expected in ((torch.uint8, torch.uint8), (torch.int64, torch.int64), (torch.float64, torch.float32)):
        given = loader(TensorDataset(torch.ones(8, 4, dtype=dtype), torch.arange(8) % 3))
        made = LoaderTask(network(), given, given)
        assert made.example_inputs().dtype == expected
        assert {inputs.dtype for inputs, _ in made.batches("train", 4, torch.Generator().manual_seed(0))} == {expected}


def pair(targets: Tensor, samples: int = 12) -> DataLoader[Any]:
    return loader(TensorDataset(torch.randn(samples, 4, generator=torch.Generator().manual_seed(0)), targets))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.uint8])
def test_one_hot_targets_are_scored_by_their_class(dtype: torch.dtype) -> None:
    classes = torch.arange(12) % 2
    given, plain = pair(F.one_hot(classes, 2).to(dtype)), pair(classes.to(torch.int32))
    hot, indexed = LoaderTask(network(2), given, given), LoaderTask(network(2), plain, plain)
    outputs = torch.randn(12, 2, generator=torch.Generator().manual_seed(3))
    rows, indices = (next(iter(made.batches("search", 12)))[1] for made in (hot, indexed))
    assert hot.score(outputs, rows)["top1"].tolist() == (outputs.argmax(1) == classes).float().tolist()
    assert indexed.score(outputs, indices)["top1"].tolist() == hot.score(outputs, rows)["top1"].tolist()
    torch.testing.assert_close(hot.loss(outputs, rows), F.cross_entropy(outputs, classes))
    torch.testing.assert_close(indexed.loss(outputs, indices), F.cross_entropy(outputs, classes))
    labels = hot.labels(rows)
    assert labels is not None
    assert labels.tolist() == classes.tolist()


class Two(nn.Module):
    """A network with two outputs."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


UNFIT: dict[str, tuple[nn.Module, Tensor, dict[str, Any], str]] = {
    "one logit": (network(1), torch.arange(12.0)[:, None] % 2, {}, r"one logit.*loss=.*score="),
    "no dimension of classes": (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), torch.arange(12) % 2, {}, r"one logit"),
    "several labels": (network(3), torch.ones(12, 3), {}, r"no probabilities of 3 classes.*loss="),
    "numbers to be predicted": (network(3), torch.randn(12), {}, r"expected classes as integers.*loss="),
    "more classes than outputs": (network(3), torch.arange(12), {}, r"classes from 0 to 11.*3 outputs"),
    "ignored classes": (network(3), torch.arange(12) % 3 - 1, {}, r"classes from -1"),
    "two outputs": (Two(), torch.arange(12) % 3, {}, r"several outputs \(a tuple\).*loss=.*score="),
    "two losses per sample": (
        network(),
        torch.arange(12) % 3,
        {"loss": lambda o, t: o[:, :2]},
        r"loss= gave .*\(12, 2\)",
    ),
    "one score": (network(), torch.arange(12) % 3, {"score": lambda o, t: o.mean()}, r"score= gave .*one value per sample"),
    "a score that fails": (network(), torch.arange(12) % 3, {"score": lambda o, t: o[:, 9]}, r"score= failed on .*IndexError"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_outputs_and_targets_that_no_guess_fits_are_refused_with_what_to_pass(kind: str) -> None:
    model, targets, options, message = UNFIT[kind]
    given = pair(targets)
    with pytest.raises(LoaderError, match=f"(?s){message}"):
        LoaderTask(model, given, given, **options)


def test_targets_of_the_test_split_are_looked_at_too() -> None:
    given = pair(torch.arange(12) % 3)
    with pytest.raises(LoaderError, match=r"the loader 'test': .*classes from 0 to 5"):
        LoaderTask(network(), given, given, pair(torch.arange(12) % 6))


def test_any_targets_go_with_a_loss_and_a_score() -> None:
    given = pair(torch.arange(12.0)[:, None] % 2)
    made = LoaderTask(
        network(1),
        given,
        given,
        loss=F.binary_cross_entropy_with_logits,
        score=lambda outputs, targets: ((outputs > 0) == targets.bool()).float(),
    )
    outputs, targets = torch.tensor([[2.0], [-1.0]]), torch.tensor([[1.0], [1.0]])
    assert made.score(outputs, targets)["top1"].tolist() == [1.0, 0.0]


def test_a_list_of_batches_is_shuffled_by_sample_and_read_in_order() -> None:
    batches = [(DATA.tensors[0][first : first + 3], DATA.tensors[1][first : first + 3]) for first in range(0, SAMPLES, 3)]
    made = task(train=batches, search=batches)
    assert made.size("train") == SAMPLES
    assert seen(made, "search") == list(range(SAMPLES))
    drawn = seen(made, "train", torch.Generator().manual_seed(0))
    assert sorted(drawn) == list(range(SAMPLES)) != drawn
    for inputs, targets in made.batches("train", 4, torch.Generator().manual_seed(1)):
        assert (inputs[:, 0].long() % 3).tolist() == targets.tolist()


class Paired(nn.Module):
    """Takes two inputs by place, and answers with a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, first: Tensor, second: Tensor) -> dict[str, Tensor]:
        return {"logits": self.layer(first - second)}


class PairedSamples(Dataset[Any]):
    """Two rows and a class."""

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> Any:
        return (DATA[index][0], torch.ones(4, dtype=torch.float64)), {"label": DATA[index][1]}


def losses(outputs: Any, targets: Any) -> Tensor:
    return F.cross_entropy(outputs["logits"], targets["label"], reduction="none")


def mean_loss(outputs: Any, targets: Any) -> Tensor:
    return losses(outputs, targets).mean()


def test_a_loss_without_a_score_is_what_is_minimized() -> None:
    given = loader(PairedSamples())
    for loss, told in ((losses, 0), (mean_loss, 1)):
        made = LoaderTask(Paired(), given, given, loss=loss)
        assert (made.score_name, made.score_sign, made.score_metrics["loss"].is_cost) == ("loss", -1.0, False)
        model = made.reference_model()
        found = measure(model, made, "search", batch_size=8)
        assert found.keys() == {"loss"}
        inputs, targets = next(iter(made.batches("search", SAMPLES)))
        assert [entry.dtype for entry in inputs] == [torch.float32, torch.float32]
        assert found["loss"] == pytest.approx(float(mean_loss(model(*inputs), targets).detach()), abs=1e-6)
        assert len([line for line in made.check_data() if "standard error" in line]) == told
        history = train(model, made, TrainingSettings(3, 5, early_stop=EarlyStopSettings()), seed=0, device=torch.device("cpu"))
        best = history.best
        assert best is not None
        assert best.search_score == min(epoch.search_score for epoch in history.epochs)


def test_a_rule_counts_the_samples_of_a_batch() -> None:
    given = loader(PairedSamples())
    made = LoaderTask(Paired(), given, given, loss=mean_loss, batch_size=lambda inputs, targets: len(targets["label"]) * 2)
    inputs, targets = next(iter(made.batches("search", 4)))
    assert made.count(inputs, targets) == 8


def test_splits_of_two_structures_are_refused_with_the_entry() -> None:
    given = loader(PairedSamples())
    other = [((DATA.tensors[0], DATA.tensors[0].long()), {"label": DATA.tensors[1]})]
    with pytest.raises(LoaderError, match=r"loader 'train': expected entry 1 of the inputs .* float32 .*; got int64"):
        LoaderTask(Paired(), other, given, loss=losses)
    with pytest.raises(LoaderError, match=r"loader 'search': expected targets with a row per sample, 16 here; got label"):
        LoaderTask(Paired(), given, loader(PairedSamples(), collate_fn=flattened), loss=losses)


def flattened(samples: list[Any]) -> Any:
    inputs = tuple(torch.stack(list(column)) for column in zip(*(sample[0] for sample in samples), strict=True))
    return inputs, {"label": torch.stack([sample[1]["label"] for sample in samples]).repeat(2)}


@pytest.mark.slow
def test_a_metric_that_accumulates_is_the_score() -> None:
    pytest.importorskip("torchmetrics")
    given = loader()
    settings = {"name": "torchmetrics.classification.MulticlassF1Score", "arguments": {"num_classes": 3, "average": "macro"}}
    made = task(score=settings)
    assert (made.score_name, made.score_sign) == ("multiclass_f1_score", 1.0)
    found = [measure(made.reference_model(), made, "search", batch_size=size) for size in (3, 20)]
    assert found[0] == pytest.approx(found[1])
    assert found[0].keys() == {"loss", "multiclass_f1_score"}
    with pytest.raises(MeterError, match="can't take outputs of entries logits"):
        LoaderTask(Paired(), loader(PairedSamples()), loader(PairedSamples()), loss=losses, score=settings)
    with pytest.raises(MeterError, match="expected a mapping with name"):
        LoaderTask(network(), given, given, score={"arguments": {}})


class Judged(nn.Module):
    """Gives its losses in training mode, as torchvision's detectors do, and else the mean of every image."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Linear(1, 1)
        self.dropout = nn.Dropout()

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        means = self.dropout(self.scale(torch.stack([image.mean() for image in images])[:, None]))
        if not self.training:
            return [{"mean": mean} for mean in means]
        assert targets is not None
        wanted = torch.stack([target["mean"] for target in targets])
        return {"error": (means - wanted).square().mean(), "size": means.abs().mean()}


def judged(loss: Any, targets: bool = True) -> LoaderTask:
    """Return a task of images of different sizes, each with a dict of targets."""
    sizes = [torch.rand(1, 3 + place % 3, 4, generator=torch.Generator().manual_seed(place)) for place in range(12)]
    samples = [(image, {"mean": image.mean()[None]} if targets else {"other": image.mean()[None]}) for image in sizes]

    def together(batch: list[Any]) -> Any:
        return [image for image, _ in batch], [target for _, target in batch]

    loader = DataLoader(samples, batch_size=4, collate_fn=together)  # type: ignore[arg-type]
    return LoaderTask(Judged(), loader, loader, loss=loss)


def test_the_losses_that_a_network_gives_itself_are_trained_and_measured() -> None:
    task = judged("model")
    assert (task.score_name, task.score_sign, task.model_gives_losses) == ("loss", -1.0, True)
    model = task.build().eval()
    before = measure(model, task, "search")
    assert before == measure(model, task, "search")
    assert set(before) == {"loss"}
    optimizer = OptimizerSettings("adam", lr=0.05)
    train(model, task, TrainingSettings(6, batch_size=4, optimizer=optimizer), seed=0, device=torch.device("cpu"))
    assert measure(model, task, "search")["loss"] < before["loss"]
    teacher = TrainingSettings(1, batch_size=4, distillation=DistillationSettings())
    with pytest.raises(TrainingError, match="distillation compares outputs, and this network gives losses"):
        train(model, task, teacher, seed=0, device=torch.device("cpu"), teacher=task.build())


def test_a_network_that_takes_no_such_targets_or_gives_no_losses_is_refused() -> None:
    with pytest.raises(
        LoaderError, match=r"loss='model': the network can't be called with inputs of .* targets of .* in training"
    ):
        judged("model", targets=False)
    loader = DataLoader(TensorDataset(torch.randn(8, 4), torch.arange(8) % 3), batch_size=4)
    with pytest.raises(LoaderError, match="can't be called with inputs of"):
        LoaderTask(nn.Linear(4, 3), loader, loader, loss="model")
