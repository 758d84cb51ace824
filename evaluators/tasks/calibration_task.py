"""A task made of a network and inputs without labels: smaller networks are compared with the network's own answers."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Subset, default_collate

from evaluators.metrics import METRICS, Metric
from evaluators.output_distance import class_dimension, distance_of, logits_of
from evaluators.task import Batch, Split
from evaluators.tasks.held_samples import loader_of
from evaluators.tasks.loader_batches import with_tuples
from evaluators.tasks.loader_samples import LoaderError, samples_of
from evaluators.tasks.loader_task import BatchSize, LoaderTask
from spaces.execution.batch import Nested, count_samples, join, select
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.hooks import temporary_hooks
from spaces.execution.randomness import seed_of
from spaces.layers.linear_map import LinearMap
from spaces.reconstruction.structure import linear_maps

HELD_BACK, LEFT = 64, 16
"""Fewest samples that are held back for the report, where that leaves so many; else half of all are."""

FEW = 128
"""Samples below which a warning tells how little the layers are solved on."""

CHUNK = 64
"""Samples per forward pass of the network whose answers are asked for."""


class CalibrationWarning(UserWarning):
    """A remark on samples to calibrate on that are few."""


class CalibrationTask(LoaderTask):
    """Task made of a network and samples of its inputs, without labels.

    A quarter of the samples, at least :data:`HELD_BACK` and drawn by the seed, is held back: it is the split ``test``, and is
    read for the report only. The others are both ``train`` and ``search``. Targets are the network's own outputs; scores are
    the agreement with it (the share of samples, or of their positions, with the same likeliest class; left out where outputs
    are no logits) and the divergence from it. With a labelled ``test``, that is the split ``test`` and has the score ``top1``
    beside both.

    Args:
        model: The trained network, as :class:`.LoaderTask` takes it.
        calibration: Gives inputs alone, a tensor or a mapping, or ``(inputs, anything)``: a data loader, or a list or anything
            else that can be iterated again. Inputs that are a tuple come as ``(inputs, None)``.
        test: Gives ``(inputs, classes)`` for the report; None for the samples held back.
        batch_size: Number of samples of a batch, from inputs and None.
        seed: Seed of what is held back.

    Raises:
        UnsupportedModelError: The network has parts that can't be taken along.
        LoaderError: There are fewer than four samples, or the loaders can't be used.

    Warns:
        CalibrationWarning: There are fewer than :data:`FEW` samples.
    """

    def __init__(
        self,
        model: nn.Module,
        calibration: Iterable[Any],
        test: Iterable[Any] | None = None,
        batch_size: BatchSize | None = None,
        seed: int = 0,
    ) -> None:
        """Draw what is held back, read a batch of either part, and run the network on it."""
        loader = loader_of(_without_targets(calibration), "calibration")
        # Of a sampler that draws some samples twice, none is on both sides.
        positions = list(dict.fromkeys(samples_of(loader, "calibration").fixed()))
        self._total = len(positions)
        if self._total < 4:
            raise LoaderError(f"calibration: expected at least 4 samples, some of which are held back, got {self._total}")
        held = max(HELD_BACK, -(-self._total // 4)) if self._total >= HELD_BACK + LEFT else self._total // 2
        order = torch.randperm(self._total, generator=torch.Generator().manual_seed(seed_of(f"calibration/{seed}"))).tolist()
        back, others = (_part(loader, [positions[at] for at in sorted(one)]) for one in (order[:held], order[held:]))
        self._seed, self._labelled = seed, None
        super().__init__(model, others, others, back, _no_loss, batch_size=batch_size)
        if test is not None:
            self._labelled = LoaderTask(self.build(), test, test)
        self._answers: dict[Split, Nested] = {}
        inputs = self.example_inputs()
        outputs = self._answered([inputs])
        self._distance = distance_of("auto", outputs, inputs, None)
        logits = logits_of(outputs)
        self._classes = None if logits is None else class_dimension(logits, inputs, None)
        self._settled = False
        if self._total < FEW:
            warnings.warn(self._few(inputs), CalibrationWarning, stacklevel=3)

    @property
    def score_name(self) -> str:
        """``agreement``, or ``divergence`` where outputs are no logits."""
        return self.score_names[0]

    @property
    def score_names(self) -> tuple[str, ...]:
        """``agreement`` (of logits), ``divergence``, and ``top1`` where there is a labelled test split."""
        labelled = () if self._labelled is None else (self._labelled.score_name,)
        return (*(() if self._classes is None else ("agreement",)), "divergence", *labelled)

    @property
    def score_metrics(self) -> Mapping[str, Metric]:
        """Descriptions of the scores."""
        known = {"agreement": METRICS["agreement"], "divergence": METRICS["divergence"]}
        labelled = {} if self._labelled is None else self._labelled.score_metrics
        return {name: known[name] if name in known else labelled[name] for name in self.score_names}

    @property
    def scores_by_sample(self) -> bool:
        """True: every score is a value per sample."""
        return True

    def size(self, split: Split) -> int:
        """Return the number of samples in ``split``."""
        if split == "test" and self._labelled is not None:
            return self._labelled.size(split)
        return super().size(split)

    def batches(
        self, split: Split, batch_size: int, generator: torch.Generator | None = None, limit: int | None = None
    ) -> Iterator[Batch]:
        """Yield ``(inputs, targets)`` as :meth:`Task.batches` does; targets have the network's own outputs, and any labels."""
        if split == "test" and self._labelled is not None:
            for inputs, labels in self._labelled.batches(split, batch_size, generator, limit):
                yield inputs, {"dense": self._answered([inputs]), "labels": labels}
            return
        first = 0
        for inputs, _ in super().batches(split, batch_size, generator, limit):
            if generator is None:
                count = count_samples(inputs)
                dense = select(self._answers_of(split), first, first + count)
                first += count
            else:
                dense = self._answered([inputs])
            yield inputs, {"dense": dense}

    def loss(self, outputs: Any, targets: Nested, label_smoothing: float = 0.0) -> Tensor:
        """Return the mean divergence of a batch from the network's own outputs."""
        return self._divergence(outputs, targets).mean()

    def score(self, outputs: Any, targets: Nested) -> dict[str, Tensor]:
        """Return agreement, divergence and any ``top1``, each of shape ``(N,)``."""
        found: dict[str, Tensor] = {}
        own, dense = logits_of(outputs), logits_of(targets["dense"])
        if self._classes is not None and own is not None and dense is not None:
            same = (own.argmax(self._classes) == dense.argmax(self._classes)).float()
            found["agreement"] = same.flatten(1).mean(1) if same.dim() > 1 else same
        found["divergence"] = self._divergence(outputs, targets)
        if self._labelled is not None and "labels" in targets:
            found |= self._labelled.score(outputs, targets["labels"])
        return found

    def labels(self, targets: Nested) -> Tensor | None:
        """Return None: samples to calibrate on have no labels."""
        return None

    def check_data(self) -> Iterable[str]:
        """Return a remark on samples that are few."""
        if self._total < FEW:
            yield f"note that {self._few(self.example_inputs())}"

    def example_inputs(self) -> Nested:
        """Return the first sample that is not held back, as a batch."""
        inputs, _ = next(iter(super().batches("train", 1, limit=1)))
        return inputs

    @property
    def fingerprint(self) -> str:
        """Hash of the network's structure and weights, the samples of both parts, the seed, and any labelled split."""
        labelled = "" if self._labelled is None else self._labelled.fingerprint
        return hashlib.sha256(f"{super().fingerprint} {self._seed} {labelled}".encode()).hexdigest()[:16]

    def _answers_of(self, split: Split) -> Nested:
        """Return the network's own outputs on all samples of a split in their order, computed once and held in memory."""
        part: Split = "test" if split == "test" else "train"
        if part not in self._answers:
            self._answers[part] = self._answered(inputs for inputs, _ in super().batches(part, CHUNK))
        return self._answers[part]

    def _answered(self, batches: Iterable[Nested]) -> Nested:
        with evaluation_mode(self._model), torch.no_grad():
            found = [self.forward(self._model, inputs) for inputs in batches]
        return found[0] if len(found) == 1 else join(found)

    def _divergence(self, outputs: Any, targets: Nested) -> Tensor:
        if not self._settled:
            self._distance.settle([self._distance.stored(self._answers_of("train"))])
            self._settled = True
        return self._distance.of(outputs, self._distance.stored(targets["dense"]))

    def _few(self, inputs: Nested) -> str:
        """Return a line on the layer that is solved on the fewest rows for its columns."""
        model, rows = self.build(), dict[str, tuple[int, int]]()
        used = super().size("train")

        def see(name: str, layer: LinearMap) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                if isinstance(output, Tensor):
                    rows[name] = used * (output.numel() // layer.outputs), layer.columns

            return hook

        hooks = (layer.module.register_forward_hook(see(name, layer)) for name, layer in linear_maps(model).items())
        with temporary_hooks(hooks), evaluation_mode(model), torch.no_grad():
            self.forward(model, inputs)
        back = self._total - used
        start = f"{self._total} samples to calibrate on are few, {back} of them held back for the report"
        if not rows:
            return f"{start}; expected at least {FEW}"
        name, (count, columns) = min(rows.items(), key=lambda item: item[1][0] / item[1][1])
        return (
            f"{start}: the layer {name!r} is solved on {count} rows for its {columns} columns, {count / columns:.2g} for each; "
            f"expected at least {FEW} samples, better several rows for each column"
        )


def _no_loss(outputs: Any, targets: Nested) -> Tensor:
    """Stand for the loss while the loaders are checked: a scalar."""
    return torch.zeros(())


def _part(loader: DataLoader[Any], positions: Sequence[Any]) -> DataLoader[Any]:
    """Return a loader of some samples of another's data set, each read as that one reads it."""
    return DataLoader(
        Subset(loader.dataset, positions),
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
    )


class _InputsAlone:
    """Collation that makes ``(inputs, None)`` of samples."""

    def __init__(self, collate: Any) -> None:
        self._collate = collate

    def __call__(self, samples: Any) -> tuple[Any, None]:
        batch = self._collate(samples)
        return _inputs_of(with_tuples(batch) if self._collate is default_collate else batch), None


def _inputs_of(batch: Any) -> Any:
    """Return the inputs of what a loader gave: the first entry of a tuple or list, or all of it."""
    if not isinstance(batch, tuple | list):
        return batch
    if not batch:
        raise LoaderError("calibration: expected inputs, or (inputs, anything), got an empty batch")
    return batch[0]


def _without_targets(given: Any) -> Any:
    """Return a loader, or a list of batches, of ``(inputs, None)``.

    Raises:
        LoaderError: ``given`` can't be iterated, or only once.
    """
    if isinstance(given, DataLoader):
        batches = given.batch_sampler
        if not isinstance(batches, BatchSampler):
            # Said by what reads it: a data set without a length, or one that gives whole batches.
            return given
        if type(batches) is BatchSampler:
            # No sample is dropped: those that are taken must be the same ones every time.
            batches = BatchSampler(batches.sampler, batches.batch_size, drop_last=False)
        return DataLoader(
            given.dataset,
            batch_sampler=batches,
            collate_fn=_InputsAlone(given.collate_fn),
            num_workers=given.num_workers,
            worker_init_fn=given.worker_init_fn,
        )
    if isinstance(given, Tensor | Iterator | Mapping) or not isinstance(given, Iterable):
        raise LoaderError(
            "calibration: expected a torch DataLoader, or a list or anything else that can be iterated again, of batches of "
            f"inputs or of (inputs, anything); got a {type(given).__name__}"
        )
    return [(_inputs_of(batch), None) for batch in given]
