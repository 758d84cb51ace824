"""Data of a person's own by import path: a function that returns torch data sets or data loaders, without a task class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, SequentialSampler, Subset

from evaluators.meters import MeterSettings
from evaluators.task import Split
from evaluators.tasks.held_samples import loader_of
from evaluators.tasks.loader_samples import LoaderError
from evaluators.tasks.loader_task import OWN_LOSSES, LoaderTask, Loss
from evaluators.tasks.model_factory import ModelSettings, build_model, load_weights
from spaces.errors import SecateursError, error_line
from spaces.registry import resolve_named

SEARCH_SHARE, MOST_SEARCH = 0.1, 5000
"""Share of the training samples that is set aside for searches by default, and the most that are (ours)."""

_EXPECTED = (
    "expected (train, test), (train, search, test) or a mapping with these names, each a torch Dataset or DataLoader of "
    "(inputs, targets)"
)


class ImportedDataError(SecateursError):
    """The function of ``task.data`` fails, or returns no data that a task can use."""


@dataclass(frozen=True)
class ImportedDataSettings:
    """Data by import path: ``data: {factory: my_package.my_data.splits, arguments: {...}}``.

    Attributes:
        factory: Import path of a function that returns ``(train, test)``, ``(train, search, test)`` or a mapping with these
            names, each a torch ``Dataset`` or ``DataLoader`` of ``(inputs, targets)``.
        arguments: Its keyword arguments.
        search_size: Samples set aside from ``train`` for searches and early stopping, where the function returns no
            ``search``; null for a tenth, at most 5,000.
        split_seed: Seed of the order in which they are set aside, and of torch's generator while the function runs.
        workers: Processes that read samples of a ``Dataset``; 0 reads in this one. A ``DataLoader`` has its own number.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    search_size: int | None = None
    split_seed: int = 0
    workers: int = 0

    def __post_init__(self) -> None:
        """Check the ranges of the options."""
        if self.search_size is not None and self.search_size < 1:
            raise ValueError(f"search_size: expected at least 1 sample, got {self.search_size}")
        for name in ("split_seed", "workers"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")


class ImportedDataTask(LoaderTask):
    """A network from a factory on data from a function: ``task.model`` and ``task.data.factory`` of a configuration.

    Args:
        model: Factory, arguments and checkpoint of the network.
        data: The function and its arguments, and what is set aside for searches.
        score: A metric that accumulates, the primary score; None for top-1 accuracy, or the loss where one is given.
        loss: Import path of the loss, a function of outputs and targets or a class of such; ``model`` for a network that gives
            its losses itself; None for cross-entropy.

    Raises:
        ImportedDataError: The function fails, or returns something else than data sets and data loaders.
        LoaderError: Its samples can't be used, or do not fit the network, loss and score.
        SecateursError: The network can't be built, or its checkpoint not read.
    """

    def __init__(
        self,
        model: ModelSettings,
        data: ImportedDataSettings,
        score: MeterSettings | None = None,
        loss: str | None = None,
    ) -> None:
        """Build the network, call the function, and read a batch of every split."""
        network = build_model(model)
        if model.checkpoint is not None:
            load_weights(network, model.checkpoint)
        splits = _splits(data)
        try:
            super().__init__(
                network,
                splits["train"],
                splits["search"],
                splits["test"],
                loss=_loss(loss),
                score=None if score is None else asdict(score),
            )
        except LoaderError as error:
            error.args = (f"task.data {data.factory}: {_in_a_configuration(str(error))}",)
            raise


def _loss(path: str | None) -> Loss | None:
    if path is None:
        return None
    if path == OWN_LOSSES:
        return "model"
    found = resolve_named(path)
    made: Loss = found() if isinstance(found, type) else found
    return made


def _in_a_configuration(message: str) -> str:
    hints = ""
    if "loss=" in message:
        hints += "; in a configuration loss= is task.loss, the import path of a function, and score= a metric, task.score"
    if "PIL." in message:
        hints += "; it gives pictures and no tensors: pass it a transform, such as torchvision.transforms.ToTensor()"
    return message + hints


def _splits(data: ImportedDataSettings) -> dict[Split, DataLoader[Any]]:
    """Return a data loader for each of ``train``, ``search`` and ``test``."""
    found = _named(_called(data), data.factory)
    loaders: dict[Split, DataLoader[Any]] = {split: _loader(given, split, data) for split, given in found.items()}
    if "search" not in loaders:
        loaders["train"], loaders["search"] = _set_aside(loaders["train"], data)
    return loaders


def _called(data: ImportedDataSettings) -> Any:
    """Return what the function returns; what it draws from torch's generator is the same in every run."""
    function = resolve_named(data.factory)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(data.split_seed)
        try:
            return function(**data.arguments)
        except (Exception, SystemExit) as error:
            raise ImportedDataError(
                f"task.data.factory {data.factory} called with {dict(data.arguments)} failed: {error_line(error)}; check "
                "task.data.arguments"
            ) from error


def _named(returned: Any, factory: str) -> dict[Split, Any]:
    """Return the data of every split that was returned.

    Raises:
        ImportedDataError: They are not those of a task.
    """
    names: dict[int, tuple[Split, ...]] = {2: ("train", "test"), 3: ("train", "search", "test")}
    if isinstance(returned, Mapping):
        found = dict(returned)
        came = f"a mapping with {', '.join(map(str, found)) or 'nothing'}"
    elif isinstance(returned, tuple | list) and len(returned) in names:
        found = dict(zip(names[len(returned)], returned, strict=True))
        came = ""
    else:
        parts = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        raise ImportedDataError(f"task.data.factory {factory}: {_EXPECTED}; got a {type(returned).__name__}{parts}")
    if not {"train", "test"} <= found.keys() <= {"train", "search", "test"}:
        raise ImportedDataError(f"task.data.factory {factory}: {_EXPECTED}; got {came}")
    return found


def _loader(given: Any, split: Split, data: ImportedDataSettings) -> DataLoader[Any]:
    """Return the data loader of a split: the one that was returned, or one over the data set or the batches that were.

    Raises:
        ImportedDataError: Its samples can't be asked for by position.
    """
    place = f"task.data {data.factory}: {split}"
    if isinstance(given, DataLoader):
        return given
    if isinstance(given, IterableDataset):
        raise ImportedDataError(
            f"{place}: expected a data set with a length, whose samples can be asked for by position; "
            f"{type(given).__name__} is iterable only: return its samples as a list of (inputs, targets) batches"
        )
    # A class of one's own with __len__ and __getitem__ alone is a data set to PyTorch, too.
    if isinstance(given, Dataset) or (isinstance(given, Sized) and not isinstance(given, Iterable)):
        if not isinstance(given, Sized) or not len(given):
            came = "is empty" if isinstance(given, Sized) else "has no __len__"
            raise ImportedDataError(
                f"{place}: expected a torch Dataset with a length and at least one sample; {type(given).__name__} {came}"
            )
        dataset: Any = given
        return DataLoader(dataset, num_workers=data.workers)
    if isinstance(given, Iterable) and not isinstance(given, Mapping | str):
        return loader_of(given, split)
    came = f"a {type(given).__name__}"
    raise ImportedDataError(f"{place}: expected a torch Dataset or DataLoader of (inputs, targets), got {came}")


def _set_aside(train: DataLoader[Any], data: ImportedDataSettings) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Return data loaders of the rest of the training samples, and of those set aside for searches.

    Raises:
        ImportedDataError: They are selected in a way that can't be kept, or too few.
    """
    place = f"task.data {data.factory}"
    if type(train.sampler) not in (SequentialSampler, RandomSampler) or train.batch_sampler is None:
        raise ImportedDataError(
            f"{place}: samples for searches can't be set aside from a DataLoader with a {type(train.sampler).__name__}; return "
            "(train, search, test)"
        )
    dataset: Any = train.dataset
    samples = len(dataset)
    wanted = data.search_size if data.search_size is not None else min(MOST_SEARCH, max(1, round(SEARCH_SHARE * samples)))
    if wanted >= samples:
        raise ImportedDataError(f"{place}: search_size {wanted} leaves nothing to train on: train has {samples} samples")
    order = np.random.default_rng(data.split_seed).permutation(samples)
    over = partial(
        DataLoader,
        collate_fn=train.collate_fn,
        num_workers=train.num_workers,
        worker_init_fn=train.worker_init_fn,
    )
    left = Subset(dataset, order[wanted:].tolist())
    rest: DataLoader[Any] = over(left, batch_size=min(train.batch_size or 1, len(left)), drop_last=train.drop_last)
    return rest, over(Subset(dataset, sorted(order[:wanted].tolist())))
