"""A task made of Python objects, a network and data loaders, instead of names in a configuration."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from evaluators.meters import ImportedMeter, Meter, meter_settings
from evaluators.metrics import Metric
from evaluators.task import Batch, MeasurementError, Split, Task, summed_losses
from evaluators.tasks.held_samples import loader_of
from evaluators.tasks.loader_batches import check_rows, check_structure, misfit, pair_of, with_tuples
from evaluators.tasks.loader_check import CHECKED, check_classes, check_loss, check_numbers, check_outputs, check_score
from evaluators.tasks.loader_samples import LoaderError, Samples, samples_of
from spaces.cloning.admission import admitted
from spaces.cloning.clone import clone
from spaces.cloning.plain_network import plain_network
from spaces.errors import NetworkWarning, SecateursError, error_line
from spaces.execution.batch import BatchError, Nested, count_samples, describe, in_type, named_tensors
from spaces.execution.evaluation_mode import evaluation_mode

OWN_LOSSES = "model"
"""Stands for the losses that a network gives itself, called with inputs and targets in training mode."""
Loss = Callable[[Any, Nested], Tensor] | Literal["model"]
"""From outputs and targets of a batch to the loss of every sample, shape ``(N,)``, or to the mean loss, a scalar;
or ``model`` for a network that gives its losses itself, which are added up."""
Score = Callable[[Any, Nested], Tensor]
"""From outputs and targets of a batch to one value per sample, shape ``(N,)``; higher is better."""
BatchSize = Callable[[Nested, Nested], int]
"""From inputs and targets of a batch to its number of samples."""


class _Samples(Dataset[Any]):
    """Single samples, by (position in the data set, seed of torch's generator for that sample)."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Any:
        position, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return self.dataset[position]


class LoaderTask(Task):
    """Task made of a network and the data loaders that it was trained with.

    Of a loader its data set, the samples selected by its sampler (with their weights) and ``drop_last``, ``collate_fn``,
    ``num_workers`` and ``worker_init_fn`` are used; batch size and order are the run's. Inputs of integers, such as bytes or
    tokens, stay integers; floating-point ones become float32. What a data set draws from torch's generator (augmentation by
    transforms v2) is the same in every run; what it draws from others is not.

    Inputs are a tensor, a mapping (``model(**inputs)``) or a tuple (``model(*inputs)``) of any nesting, targets any nesting or
    None, outputs anything that ``loss`` and ``score`` take (:mod:`spaces.execution.batch`). Samples that are tuples stay
    tuples, of which PyTorch's default collation makes lists; a list from a ``collate_fn`` holds an entry per sample.

    Args:
        model: The trained network; it is copied, without wrappers of training and compilation and with computed weights
            stored (a NetworkWarning says so), and never changed.
        train: Gives ``(inputs, targets)`` to train with: a data loader, or a list or anything else that can be iterated again,
            which is read once and whose samples, of one shape, are held in memory.
        search: The same to search and stop early with.
        test: The same for the report; None for ``search``.
        loss: The loss; None for cross-entropy of logits of shape ``(N, classes, ...)``, with targets that are classes, integers
            of shape ``(N, ...)``, or their probabilities, of the shape of the logits; ``"model"`` for the sum of the losses
            that the network itself gives, called with inputs and targets in training mode, as torchvision's detectors are.
        score: The score: one value per sample; or a metric that accumulates, as ``task.score`` of a configuration has it:
            ``{"name": "torchmetrics.classification.MulticlassF1Score", "arguments": {...}, "direction": "maximize"}``. None for
            top-1 accuracy, or for the loss where one is passed: then the loss is what is minimized.
        score_name: Name of the score that is passed.
        batch_size: Number of samples of a batch; None for the length of the first tensor's first dimension.

    Raises:
        UnsupportedModelError: The network has parts that can't be taken along; the message names them.
        LoaderError: A loader has no length, gives no samples or no pair of inputs and targets, selects its samples in a way
            that can't be kept, or gives batches of another structure than the search split's; or loss and score don't fit
            outputs and targets.
    """

    def __init__(
        self,
        model: nn.Module,
        train: Iterable[Any],
        search: Iterable[Any],
        test: Iterable[Any] | None = None,
        loss: Loss | None = None,
        score: Score | Mapping[str, Any] | None = None,
        score_name: str = "top1",
        batch_size: BatchSize | None = None,
    ) -> None:
        """Copy the network and run it on a batch; read a batch of every split."""
        plain, notes = plain_network(model)
        for note in notes:
            warnings.warn(note, NetworkWarning, stacklevel=3)
        self._model = admitted(plain).cpu().eval()
        test = search if test is None else test
        # What two splits share is read once.
        loaders: dict[int, DataLoader[Any]] = {}
        self._loaders: dict[Split, DataLoader[Any]] = {}
        splits: dict[Split, Iterable[Any]] = {"train": train, "search": search, "test": test}
        for split, given in splits.items():
            if id(given) not in loaders:
                loaders[id(given)] = loader_of(given, split)
            self._loaders[split] = loaders[id(given)]
        self.model_gives_losses = loss == OWN_LOSSES
        self._loss = summed_losses_of if isinstance(loss, str) else loss
        self._score = None if isinstance(score, Mapping) else score
        self._meter = meter_settings(score) if isinstance(score, Mapping) else None
        self._score_name = "loss" if score is None and loss is not None else score_name
        if self._meter is not None:
            self._score_name = self._meter.label
        self._batch_size = batch_size
        self._by_sample = True
        self._samples: dict[Split, Samples] = {split: samples_of(loader, split) for split, loader in self._loaders.items()}
        self._shares = False
        self._classes: int | None = None
        self._known: Batch | None = None
        self._check()

    @property
    def score_name(self) -> str:
        """Name of the score, ``loss`` where a loss was passed and no score."""
        return self._score_name

    @property
    def score_metrics(self) -> Mapping[str, Metric]:
        """Description of the score: a share that is maximized, or the loss that was passed."""
        if self._meter is not None:
            return {self._score_name: self._meter.metric()}
        if self._score_name == "loss" and self._score is None:
            return {"loss": Metric("the loss that was passed", "minimize", "loss", "number", is_cost=False)}
        return super().score_metrics

    @property
    def scores_by_sample(self) -> bool:
        """False where the loss that was passed is the score and gives the mean of a batch."""
        return self._by_sample or self._score_name != "loss"

    def meters(self) -> Mapping[str, Meter]:
        """Return the metric that was passed as the score, new; none where the score is a value per sample."""
        return {} if self._meter is None else {self._score_name: ImportedMeter(self._meter)}

    def count(self, inputs: Nested, targets: Nested) -> int:
        """Return the number of samples of a batch, by the rule that was passed or by the first tensor of the inputs."""
        return count_samples(inputs) if self._batch_size is None else self._batch_size(inputs, targets)

    def check_data(self) -> Iterable[str]:
        """Return a remark on a loss that gives the mean of a batch alone, where it is the score."""
        if not self.scores_by_sample:
            yield "note that loss= gives the mean of a batch and not a value per sample: its standard error is not known"

    def build(self) -> nn.Module:
        """Return a copy of the network that came in, trained weights included."""
        return clone(self._model)

    def reference_model(self) -> nn.Module:
        """Return a copy of the network that came in."""
        return self.build()

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        return len(self._samples[split])

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield ``(inputs, targets)`` as :meth:`Task.batches` does."""
        count = self.size(split) if limit is None else min(limit, self.size(split))
        if generator is None:
            keys = self._fixed_keys(split, count)
        else:
            order = self._samples[split].drawn(generator, count)
            seeds = torch.randint(2**62, (count,), generator=generator).tolist()
            keys = list(zip(order, seeds, strict=True))[: count // batch_size * batch_size]
        return self._read(split, [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)])

    def loss(self, outputs: Any, targets: Nested, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of a batch, a scalar; ``label_smoothing`` has no effect on a loss that was passed in."""
        if self._loss is not None:
            return self._loss(outputs, targets).mean()
        # Classes are int64 for PyTorch, and their probabilities floating-point numbers.
        targets = targets.to(outputs.dtype) if self._shares else targets.long()
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Any, targets: Nested) -> dict[str, Tensor]:
        """Return one score per sample, shape ``(N,)``; top-1 accuracy of dense targets is the mean over positions."""
        if self._meter is not None:
            return {}
        if self._score is not None:
            values: object = self._score(outputs, targets)
            if not isinstance(values, Tensor):
                raise MeasurementError(f"score {self._score_name}: expected a tensor of a value per sample, got {values!r}")
            return {self._score_name: values.reshape(-1)}
        if self.model_gives_losses:
            return {}
        if self._loss is not None:
            losses = self._loss(outputs, targets)
            # Every sample has its batch's mean where no more is known.
            return {"loss": losses.reshape(-1) if losses.dim() else losses.expand(max(1, _rows(targets)))}
        hits = (outputs.argmax(dim=1) == (targets.argmax(dim=1) if self._shares else targets)).float()
        return {self._score_name: hits.flatten(1).mean(1) if hits.dim() > 1 else hits}

    def labels(self, targets: Nested) -> Tensor | None:
        """Return ``targets`` if they are integers of shape ``(N,)``, the likeliest class of probabilities, else None."""
        if not isinstance(targets, Tensor):
            return None
        if self._shares and targets.dim() == 2:
            return targets.argmax(dim=1)
        return targets if targets.dim() == 1 and not targets.is_floating_point() else None

    def example_inputs(self) -> Nested:
        """Return the first sample of the search split as a batch."""
        inputs, _ = next(iter(self.batches("search", 1, limit=1)))
        return inputs

    @property
    def class_names(self) -> Sequence[str] | None:
        """The ``classes`` of the data set behind ``test``, as torchvision's data sets have them; None without such names."""
        dataset: Any = self._loaders["test"].dataset
        while isinstance(dataset, Subset):
            dataset = dataset.dataset
        found = getattr(dataset, "classes", None)
        if not isinstance(found, list | tuple) or not all(isinstance(name, str) for name in found):
            return None
        return tuple(found) or None

    @property
    def fingerprint(self) -> str:
        """Hash of the network's structure and weights, the sizes of the splits and their first samples."""
        digest = hashlib.sha256(repr(self._model).encode())
        tensors = [*self._model.state_dict().values()]
        for split in self._loaders:
            digest.update(str(self.size(split)).encode())
            selected = self._samples[split]
            if selected.weights is not None or selected.positions != range(self.size(split)):
                digest.update(repr((list(selected.positions), selected.replacement)).encode())
                tensors += [selected.weights] if selected.weights is not None else []
            first = next(iter(LoaderTask.batches(self, split, 8, limit=8)))
            tensors += [tensor for _, tensor in named_tensors(first)]
        for tensor in tensors:
            digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _read(self, split: Split, groups: Sequence[Any]) -> Iterator[Batch]:
        loader, unused = self._loaders[split], torch.Generator().manual_seed(0)
        samples = _Samples(loader.dataset)
        batches: Any = DataLoader(
            samples,
            batch_sampler=groups,
            collate_fn=loader.collate_fn,
            num_workers=loader.num_workers,
            worker_init_fn=loader.worker_init_fn,
            generator=unused,
        )
        default, given = loader.collate_fn is default_collate, iter(batches)
        for keys in groups:
            try:
                batch = next(given)
            except SecateursError:
                raise
            except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
                self._explain(samples, keys, split, default, error)
                raise
            inputs, targets = pair_of(with_tuples(batch) if default else batch, split)
            inputs = in_type(inputs, torch.float32)
            if self._known is not None:
                check_structure((inputs, targets), self._known, f"a batch of the loader {split!r}", "as in its first one")
            if self._classes is not None and targets is not None:
                check_numbers(targets, self._classes, f"a batch of the loader {split!r}")
            yield inputs, targets

    @staticmethod
    def _explain(samples: _Samples, keys: Sequence[Any], split: Split, shaped: bool, error: Exception) -> None:
        """Raise LoaderError where samples of a batch that could not be made differ in structure."""
        try:
            read = [samples[key] for key in keys]
        except Exception:
            return
        found = misfit(read, split, shaped)
        if found is not None:
            raise found from error

    def _check(self) -> None:
        seen = {split: self._first(split) for split in self._loaders}
        for split, batch in seen.items():
            check_structure(batch, seen["search"], f"the loader {split!r}")
        self._known = seen["search"]
        inputs, targets = seen["search"]
        model = self.build()
        try:
            with evaluation_mode(model), torch.no_grad():
                outputs: Any = self.forward(model, inputs)
        except Exception:
            # Preflight tells what is wrong, as it does for the network of any task.
            return
        samples = self.count(inputs, targets)
        check_outputs(outputs, samples, structured=self._loss is not None)
        if self._loss is None:
            shares = {check_classes(outputs, given, split) for split, (_, given) in seen.items()}
            if len(shares) > 1:
                raise LoaderError("expected classes, or their probabilities, in all of train, search and test; got both")
            self._shares = shares.pop()
            self._classes = None if self._shares else outputs.shape[1]
        if self._loss is not None:
            losses = self._losses(model, inputs, targets, outputs)
            self._by_sample = check_loss(self._loss, losses, targets, samples)
        if self._score is not None:
            check_score(self._score, outputs, targets, samples)
        for meter in self.meters().values():
            with warnings.catch_warnings():
                # Of a few samples, metrics warn of classes that are not among them.
                warnings.simplefilter("ignore")
                meter.update(outputs, targets)
                meter.compute()

    def _losses(self, model: nn.Module, inputs: Nested, targets: Nested, outputs: Any) -> Any:
        """Return what the loss takes: the outputs, or the losses that the network gives.

        Raises:
            LoaderError: The network does not take the targets.
        """
        if not self.model_gives_losses:
            return outputs
        try:
            with torch.no_grad():
                return self.forward(model, self.loss_inputs(inputs, targets))
        except Exception as error:
            raise LoaderError(
                f"loss={OWN_LOSSES!r}: the network can't be called with inputs of {describe(inputs)} and targets of "
                f"{describe(targets)} in training mode: {error_line(error)}"
            ) from error

    def _first(self, split: Split) -> Batch:
        """Return the first samples of a split as a batch."""
        expected = "expected a torch DataLoader over a data set with a length that gives (inputs, targets)"
        keys = self._fixed_keys(split, min(CHECKED, self.size(split)))
        try:
            batch = next(iter(self._read(split, [keys])))
        except LoaderError:
            raise
        except Exception as error:
            raise LoaderError(f"the loader {split!r}: {expected}; reading {CHECKED} samples failed: {error!r}") from error
        if self._batch_size is None:
            check_rows(batch, len(keys), split)
        return batch

    def _fixed_keys(self, split: Split, count: int) -> list[tuple[Any, int]]:
        return [(position, seed) for seed, position in enumerate(self._samples[split].fixed()[:count])]


def summed_losses_of(outputs: Any, targets: Nested) -> Tensor:
    """Return the sum of the losses that a network gave; the targets went into them."""
    return summed_losses(outputs)


def _rows(targets: Nested) -> int:
    try:
        return count_samples(targets)
    except BatchError:
        return 1
