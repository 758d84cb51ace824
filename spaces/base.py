"""The search space: which compression decisions are open, and how a choice becomes a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from torch import Tensor, nn

from spaces.candidate import Candidate, Value
from spaces.channels.groups import ChannelGroups
from spaces.channels.surgery import Cut
from spaces.cloning.clone import clone
from spaces.domains import Domain
from spaces.errors import InvalidCandidateError
from spaces.execution.batch import Nested, plain_tensors
from spaces.execution.comparison import output_difference
from spaces.execution.forward import Forward, call
from spaces.frozen import Frozen
from spaces.importance.criterion import Observations
from spaces.latency.layer_latency import Beside, LayerLatency, Load, OpenLayer, total
from spaces.levels.levels import Levels, levels_of
from spaces.levels.settings import LevelSettings
from spaces.quantization.quantizable import QuantizerLocation
from spaces.sparsifiers.base import Sparsifier

S = TypeVar("S")
Row = dict[str, Any]
"""A row of the report, as JSON data."""

Solve = Callable[[nn.Module, Cut], None]
"""Solves the layers of a smaller network, in place, from that network and what was cut."""


class SearchSpace(ABC, Generic[S]):
    """The compression decisions that are open for one reference network.

    A space is built once, from the traced network, and keeps its decisions, so that workers can share it. Callers ask a space
    for everything through this interface; what a space has nothing to say about has a default here.

    Args:
        model: The network; left unchanged. None for a space over no network, such as one that an algorithm is tried on.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: Options of the space; None for the defaults.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches to calibrate on, read once and at most.

    Class attributes:
        Settings: Frozen dataclass of the options that the configuration may give.
        quantizes: Whether its networks are quantized: nothing can be cut from them or quantized again.
        target_remedy: Advice for a target below the cheapest candidate's cost.
    """

    Settings: ClassVar[type[Any]] = object
    quantizes: ClassVar[bool] = False
    target_remedy: ClassVar[str] = "raise the target, or open more of the model with max_ratio, include and exclude"
    _inputs: Nested = None
    _forward: Forward = staticmethod(call)
    _latency: LayerLatency | None = None

    def __init__(
        self,
        model: nn.Module | None = None,
        inputs: Nested = None,
        settings: S | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Keep inputs, settings and forward pass."""
        self.settings: S = self.Settings() if settings is None else settings
        self._forward = forward
        if inputs is not None:
            self._inputs = plain_tensors(inputs)

    @property
    @abstractmethod
    def domains(self) -> Mapping[str, Domain]:
        """Legal values of every decision, by decision name, in graph order."""

    @cached_property
    def channels(self) -> ChannelGroups | None:
        """Coupled channel groups that candidates remove channels of; None where they remove none."""
        return None

    @cached_property
    def quantizers(self) -> Sequence[QuantizerLocation]:
        """Places where values are quantized, in graph order; those with the same decision have the same bits."""
        return ()

    @cached_property
    def frozen(self) -> Sequence[Frozen]:
        """Parts of the network that no candidate changes, each with the reason; by default the frozen channel groups."""
        groups = () if self.channels is None else self.channels.frozen
        return [Frozen(one.name, one.size, one.reason, one.macs_share, one.members) for one in groups]

    @cached_property
    def removable(self) -> Sequence[Frozen]:
        """Parts of the network that candidates may take away whole, with their parameters; the reason of each is empty.

        Each has the name of its decision, which is 1 where the part stays and 0 where it is gone.
        """
        return ()

    @cached_property
    def levels(self) -> Mapping[str, Sequence[Value]] | None:
        """Values of every decision from the cheapest to the costliest, named by the space itself; None where it names none.

        Those of keep-masks follow from the importance of channels, and those of numbers from their order: :meth:`leveled`.
        """
        return None

    @cached_property
    def level_settings(self) -> LevelSettings:
        """Options of the levels of keep-masks; the defaults where the space has no such option."""
        return LevelSettings()

    def leveled(self, importance: Mapping[str, Any]) -> Levels:
        """Return the levels of every decision, the cheapest first, in the order of the domains.

        They are :attr:`levels` where the space names some, else nested keep-masks and the numbers of choices.

        Args:
            importance: Importance of every channel of the keep-masks, by decision, shape ``(channels,)``.

        Raises:
            NoLevelsError: A decision is neither a keep-mask nor a choice of numbers.
            SecateursError: The importance of a keep-mask is missing or does not fit.
        """
        return levels_of(self.domains, self.levels, importance, self.level_settings.steps)

    @cached_property
    def budgeted(self) -> bool:
        """True if every candidate is brought to the space's own budget, so that levels only say how it is shared."""
        return False

    @cached_property
    def limits(self) -> Mapping[str, float]:
        """Limits on costs that the space itself sets, where not all combinations of decisions are legal, by cost."""
        return {}

    def excess(self, candidate: Candidate) -> float:
        """Return by how much a candidate of legal decisions exceeds :attr:`limits`, 0 for a legal one."""
        if not self.limits:
            return 0.0
        costs = self.costs(candidate)
        return sum(max(0.0, costs[name] - limit) for name, limit in self.limits.items())

    def gains(self) -> Mapping[str, np.ndarray]:
        """Return the worth of reaching each level: by decision name, float64 of shape ``(levels,)``, never rising."""
        return {}

    @classmethod
    def quantizes_with(cls, settings: S) -> bool:
        """Return True if networks are quantized with these settings; by default as the class says."""
        return cls.quantizes

    def idle(self, candidate: Candidate) -> Collection[str]:
        """Return the decisions that change nothing in the network of a candidate, by what it decides beside them."""
        return ()

    @cached_property
    def learns(self) -> bool:
        """True if :meth:`learn` must be called before a candidate is built."""
        return False

    def learn(self, seen: Observations) -> None:
        """Learn from labelled batches which channels matter; called once, before any candidate is built."""

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Draw a legal candidate."""
        return Candidate({name: domain.sample(rng) for name, domain in self.domains.items()})

    def starting_points(self) -> Sequence[Candidate]:
        """Return candidates that a search should try first, such as the constants of a paper."""
        return ()

    def validate(self, candidate: Candidate) -> None:
        """Check every decision of ``candidate`` against its domain.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain.
        """
        unknown = sorted(candidate.values.keys() - self.domains.keys())
        if unknown:
            raise InvalidCandidateError(f"unknown decision {unknown[0]!r}; this space decides {list(self.domains)}")
        for name, domain in self.domains.items():
            if name not in candidate.values:
                raise InvalidCandidateError(f"decision {name!r} is missing; expected {domain.describe}")
            if not domain.contains(candidate.values[name]):
                raise InvalidCandidateError(f"decision {name!r}: expected {domain.describe}, got {candidate.values[name]!r}")

    @abstractmethod
    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return a trainable copy of ``model`` with ``candidate`` built in; ``model`` is left unchanged.

        The copy has the shapes of ``model`` and keeps the decisions in buffers.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain.
        """

    def inherit_weights(self, prepared: nn.Module, weights: Mapping[str, Tensor], model: nn.Module) -> None:
        """Give ``prepared`` the trained weights of another candidate's prepared network, in place.

        Taken are parameters, and those buffers that ``model`` has too: the others hold decisions of the other candidate.

        Args:
            prepared: What :meth:`prepare` returned.
            weights: The state dict of the other network.
            model: The network that both were made from.
        """
        own = {name for name, _ in prepared.named_parameters()} | model.state_dict().keys()
        found = {name: tensor for name, tensor in weights.items() if name in own}
        prepared.load_state_dict(found, strict=False)

    @abstractmethod
    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return the deployable form of a prepared network: smaller, and equal to it in output."""

    def realize(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the deployable network of ``candidate``; ``model`` is left unchanged and shares no storage with it."""
        return self.convert(self.prepare(model, candidate))

    def reconstruct(self, model: nn.Module, candidate: Candidate, solve: Solve) -> nn.Module:
        """Return the deployable network of ``candidate`` with solved weights; by default that of :meth:`realize`, as it is.

        Args:
            model: The network; left unchanged.
            candidate: The candidate.
            solve: Solves the layers of a smaller network of floats in place, from that network and what was cut out of
                ``model``; not called where nothing is cut.
        """
        return self.realize(model, candidate)

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest absolute difference between outputs of the realized and of the prepared network.

        By default in float64, on random inputs of the shape of ``inputs``; 0 for a space over no network.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        if self._inputs is None:
            return 0.0
        realized, prepared = self.realize(model, candidate), self.prepare(model, candidate)
        return output_difference(realized, prepared, self._inputs, self._forward, (model,))

    def check_prepared(self, prepared: nn.Module) -> float:
        """Return the difference of :meth:`check` for a prepared network, trained or not, and its converted form.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        if self._inputs is None:
            return 0.0
        plain = clone(prepared).double().eval()
        return output_difference(self.convert(clone(plain)), plain, self._inputs, self._forward, (prepared,))

    def sparsifier(self, candidate: Candidate) -> Sparsifier | None:
        """Return the sparsifier that trains towards ``candidate``, or None where nothing is to be trained."""
        return None

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return the costs known without building the network (such as ``macs`` and ``parameters``)."""
        return {}

    def costs_of(self, candidates: Sequence[Candidate]) -> list[dict[str, float]]:
        """Return the :meth:`costs` of every one of many candidates, faster where they can be counted together."""
        return [self.costs(candidate) for candidate in candidates]

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample; 0 where :meth:`costs` does not count them."""
        return 0.0

    def cheapest(self) -> Candidate | None:
        """Return the candidate that costs least, None where it is not known which does."""
        return None

    def open_share(self) -> float:
        """Return the share of all MACs that can go, in [0, 1]: 1 - MACs(cheapest candidate) / MACs(network).

        0 where the space does not know the MACs of its cheapest candidate.
        """
        smallest = self.cheapest()
        lowest = None if smallest is None else self.costs(smallest).get("macs")
        return 0.0 if lowest is None or self.network_macs <= 0.0 else 1.0 - lowest / self.network_macs

    def open_layers(self) -> Mapping[str, OpenLayer]:
        """Return the layers whose milliseconds add up to a candidate's latency, by name; none where no sum predicts it."""
        return {}

    def latency_terms(self, candidate: Candidate) -> Mapping[str, Load]:
        """Return the configuration in ``candidate`` of each of :meth:`open_layers`, by name."""
        return {}

    def latency_beside(self, candidate: Candidate) -> Beside:
        """Return what takes time in the network of ``candidate`` beside :meth:`open_layers`, as far as it changes."""
        return Beside()

    def use_latency(self, latency: LayerLatency) -> None:
        """Add ``latency_ms``, the sum over layers by ``latency``, to the costs; called before the first candidate."""
        self._latency = latency

    def _with_latency(self, costs: dict[str, float], candidate: Candidate) -> dict[str, float]:
        """Return ``costs`` and, where layers were measured, ``latency_ms``."""
        if self._latency is None:
            return costs
        return {**costs, "latency_ms": total(self._latency, self.latency_terms(candidate), self.latency_beside(candidate))}

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        """Return ``candidate`` in readable values, such as the keep ratio of every layer, in the order of the domains."""
        return {name: candidate.values[name] for name in self.domains}

    @abstractmethod
    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return JSON data from which :func:`spaces.transformation.apply` rebuilds the realized network's structure."""

    def transformation_of(self, candidate: Candidate, prepared: nn.Module) -> dict[str, Any]:
        """Return the :meth:`transformation` of a trained prepared network, where training decides what stays."""
        return self.transformation(candidate)

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return the report's rows on the network of ``candidate``, by table.

        ``layers`` has ``name``, ``channels`` and ``kept`` per channel group; ``bits`` has ``name``, ``weight_bits``,
        ``activation_bits``, ``weights`` and ``macs`` per quantized layer or addition; ``depth`` has ``name``, ``macs_share``
        and ``kept`` per branch or block.

        Args:
            candidate: The candidate.
            made: Its :meth:`transformation_of`, where training decided what stays; by default its :meth:`transformation`.
        """
        return {}
