"""Distance of a network's features from those of the network that it was cut from, on the channels that it still has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from evaluators.training.errors import TrainingError
from spaces.channels.surgery import Cut
from spaces.execution.batch import Nested, select
from spaces.execution.evaluation_mode import evaluation_mode
from spaces.execution.forward import Forward
from spaces.execution.hooks import temporary_hooks
from spaces.execution.randomness import kept_randomness
from spaces.patterns import first_match, require_matches
from spaces.reconstruction.blocks import BlockCall, block_calls, find_blocks, only_tensor
from spaces.reconstruction.kept import KeptOutput, kept_of_parts


@dataclass(frozen=True)
class FeatureSettings:
    """Options of learning from the outputs of the reference network's parts (Romero et al. 2015, arXiv 1412.6550).

    A part that lost channels is compared on those that it kept, without a layer in between (ours).

    Attributes:
        weight: Factor of the features' distance, which is added to the loss; above 0. The distance of a part is the mean
            squared error over the mean square of the reference's outputs, and parts are averaged (ours).
        layers: Name patterns of the parts, such as ``layer2.*``; null for all blocks, which are the smallest parts with a
            nonlinearity that can run alone.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    weight: float = 1.0
    layers: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the range of every option.

        Raises:
            ValueError: An option is out of range; the message begins with its name.
        """
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"weight: expected a number above 0, got {self.weight}")
        if self.layers is not None and not self.layers:
            raise ValueError("layers: expected name patterns, got an empty list; null takes all blocks")


@dataclass(frozen=True)
class _Part:
    """A part that both networks have.

    Attributes:
        own: What the network's output is compared on where it has all the reference's channels; None for all of it.
        taught: What the reference's output is compared on; None for all of it.
        square: Mean square of the reference's output there, a scalar.
    """

    own: KeptOutput | None
    taught: KeptOutput | None
    square: Tensor


class FeatureDistance:
    """Watches the parts of both networks while they run, and compares what they returned last.

    The scale of every part is that of one batch, so that the distance is a mean over samples, however a batch is parted.

    Args:
        model: The network; left unchanged.
        teacher: The reference; left unchanged.
        settings: The parts.
        cuts: Cuts between the two, in order.
        batch: Inputs on the networks' device, which the scales are taken from.
        forward: Runs a network on inputs.

    Attributes:
        weight: Factor of the distance.

    Raises:
        TrainingError: A named part can't be compared, or none can.
        UnsupportedModelError: A pattern matches no part.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module,
        settings: FeatureSettings,
        cuts: Sequence[Cut],
        batch: Nested,
        forward: Forward,
    ) -> None:
        self._model, self._teacher, self.weight = model, teacher, settings.weight
        self._seen: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        sample = select(batch, 0, 1)
        names = self._named(settings.layers, sample, forward)
        kept: dict[str, KeptOutput | None] = dict.fromkeys(names)
        if cuts:
            kept = kept_of_parts(teacher, cuts, sample, forward, names)
        own = block_calls(model, [name for name in names if _has(model, name)], forward, sample)
        taught = block_calls(teacher, names, forward, sample)
        found: dict[str, tuple[KeptOutput | None, KeptOutput | None]] = {}
        for name in names:
            pair = _compared(own.get(name, []), taught.get(name, []), kept[name]) if name in kept else None
            if pair is not None:
                found[name] = pair
            elif settings.layers is not None:
                raise TrainingError(
                    f"distillation.features: the outputs of {name} can't be compared with the reference's: expected one tensor "
                    "from one call in both networks, with the channels that were kept; leave it out of layers"
                )
        if not found:
            raise TrainingError(
                "distillation.features: no block of this network can be compared with the reference's; name layers that both "
                "have, or remove it here"
            )
        self._parts = {name: _Part(*pair, torch.ones(())) for name, pair in found.items()}
        with self.watching(), evaluation_mode(teacher), kept_randomness(), torch.no_grad():
            forward(teacher, batch)
        for name, (mine, theirs) in found.items():
            output = _of(theirs, self._seen[False][name])
            square = output.float().square().mean() if output.dtype != torch.float64 else output.square().mean()
            self._parts[name] = _Part(mine, theirs, square.clamp_min(torch.finfo(square.dtype).tiny))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parts that are compared, in the order in which they run."""
        return tuple(self._parts)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Keep what the parts return while the context lasts."""

        def hooks() -> Iterator[RemovableHandle]:
            for own, model in ((True, self._model), (False, self._teacher)):
                for name in self._parts:
                    yield model.get_submodule(name).register_forward_hook(keep(own, name))

        def keep(own: bool, name: str) -> Any:
            def hook(module: nn.Module, args: Any, output: Any) -> None:
                tensor = only_tensor(output)
                if tensor is not None:
                    self._seen[own][name] = tensor

            return hook

        with temporary_hooks(hooks()):
            yield

    def take(self) -> Tensor:
        """Return the distance of what both networks' parts have returned, a scalar, and forget it."""
        distances = []
        for name, part in self._parts.items():
            own, taught = _of(part.own, self._seen[True].pop(name)), _of(part.taught, self._seen[False].pop(name))
            wide = own.to(part.square.dtype)
            distances.append((wide - taught.to(part.square.dtype)).square().mean() / part.square)
        return torch.stack(distances).mean()

    def _named(self, patterns: Sequence[str] | None, sample: Nested, forward: Forward) -> tuple[str, ...]:
        if patterns is None:
            return find_blocks(self._teacher, sample, forward)
        every = [name for name, _ in self._teacher.named_modules() if name]
        require_matches(patterns, every)
        # A parent's name means the parent here, and not all that is inside it.
        return tuple(name for name in every if first_match(name, patterns) and not first_match(_parent(name), patterns))


def _compared(
    own: Sequence[BlockCall], taught: Sequence[BlockCall], kept: KeptOutput | None
) -> tuple[KeptOutput | None, KeptOutput | None] | None:
    """Return what of both outputs is compared; None where they can't be.

    A network whose removed channels are still there, without effect, has outputs of the reference's shape.
    """
    if len(own) != 1 or len(taught) != 1 or own[0].output is None or taught[0].output is None:
        return None
    mine, theirs = own[0].output.shape, taught[0].output.shape
    if mine == theirs:
        return kept, kept
    return (None, kept) if kept is not None and mine == kept.of(taught[0].output).shape else None


def _of(kept: KeptOutput | None, output: Tensor) -> Tensor:
    return output if kept is None else kept.of(output)


def _has(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
