"""A task made of Python objects, a network and data loaders, instead of names in a configuration."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from evaluators.task import Batch, Split, Task
from spaces.errors import SecateursError

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs and targets of a batch to the mean loss, a scalar."""
Score = Callable[[Tensor, Tensor], Tensor]
"""From outputs and targets of a batch to one value per sample, shape ``(N,)``; higher is better."""


class LoaderError(SecateursError):
    """A data loader can't serve as a split of a task."""


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

    Of a loader its data set, ``collate_fn`` and ``num_workers`` are used; batch size and order are the run's. What a data set
    draws from torch's generator (augmentation by transforms v2) is the same in every run; what it draws from others is not.

    Args:
        model: The trained network; it is copied, and never changed.
        train: Gives ``(inputs, targets)`` to train with.
        search: The same to search and stop early with.
        test: The same for the report; None for ``search``.
        loss: The loss; None for cross-entropy of logits of shape ``(N, classes, ...)``.
        score: The score; None for top-1 accuracy.
        score_name: Name of the score.

    Raises:
        LoaderError: A loader has no length or gives no pair of tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        train: DataLoader[Any],
        search: DataLoader[Any],
        test: DataLoader[Any] | None = None,
        loss: Loss | None = None,
        score: Score | None = None,
        score_name: str = "top1",
    ) -> None:
        """Copy the network and read one sample of every split."""
        self._model = copy.deepcopy(model).cpu().eval()
        self._loaders: dict[Split, DataLoader[Any]] = {"train": train, "search": search, "test": test or search}
        self._loss, self._score, self._score_name = loss, score, score_name
        for split in self._loaders:
            self._check(split)

    @property
    def score_name(self) -> str:
        """Name of the score; higher is better."""
        return self._score_name

    def build(self) -> nn.Module:
        """Return a copy of the network that came in, trained weights included."""
        return copy.deepcopy(self._model)

    def reference_model(self) -> nn.Module:
        """Return a copy of the network that came in."""
        return self.build()

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        dataset: Any = self._loaders[split].dataset
        return len(dataset)

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield ``(inputs, targets)`` as :meth:`Task.batches` does."""
        count = self.size(split) if limit is None else min(limit, self.size(split))
        keys = [(position, position) for position in range(count)]
        if generator is not None:
            order = torch.randperm(count, generator=generator).tolist()
            seeds = torch.randint(2**62, (count,), generator=generator).tolist()
            keys = list(zip(order, seeds, strict=True))[: count // batch_size * batch_size]
        return self._read(split, [keys[first : first + batch_size] for first in range(0, len(keys), batch_size)])

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean loss of a batch, a scalar; ``label_smoothing`` has no effect on a loss that was passed in."""
        if self._loss is not None:
            return self._loss(outputs, targets)
        return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def score(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return one score per sample, shape ``(N,)``; top-1 accuracy of dense targets is the mean over positions."""
        if self._score is not None:
            return {self._score_name: self._score(outputs, targets)}
        hits = (outputs.argmax(dim=1) == targets).float()
        return {self._score_name: hits.flatten(1).mean(1) if hits.dim() > 1 else hits}

    def labels(self, targets: Tensor) -> Tensor | None:
        """Return ``targets`` if they are integers of shape ``(N,)``, else None."""
        return targets if targets.dim() == 1 and not targets.is_floating_point() else None

    def example_inputs(self) -> Tensor:
        """Return the first sample of the search split as a batch."""
        inputs, _ = next(iter(self.batches("search", 1, limit=1)))
        return inputs

    @property
    def fingerprint(self) -> str:
        """Hash of the network's structure and weights, the sizes of the splits and their first samples."""
        digest = hashlib.sha256(repr(self._model).encode())
        tensors = [*self._model.state_dict().values()]
        for split in self._loaders:
            digest.update(str(self.size(split)).encode())
            tensors += next(iter(self.batches(split, 8, limit=8)))
        for tensor in tensors:
            digest.update(tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]

    def _read(self, split: Split, groups: Sequence[Any]) -> Iterator[Batch]:
        loader, unused = self._loaders[split], torch.Generator().manual_seed(0)
        samples = _Samples(loader.dataset)
        batches: Any = DataLoader(
            samples, batch_sampler=groups, collate_fn=loader.collate_fn, num_workers=loader.num_workers, generator=unused
        )
        for inputs, targets in batches:
            yield inputs.float(), targets

    def _check(self, split: Split) -> None:
        expected = "expected a torch DataLoader over a data set with a length that gives (inputs, targets)"
        try:
            count = self.size(split)
            batch = next(iter(self._read(split, [[(0, 0)]]))) if count else ()
        except Exception as error:
            raise LoaderError(f"the loader {split!r}: {expected}; reading one sample failed: {error!r}") from error
        if not count or not all(isinstance(part, Tensor) for part in batch):
            raise LoaderError(f"the loader {split!r}: {expected} of tensors; got {count} samples of {type(batch).__name__}")
