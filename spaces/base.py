"""The search space: which compression decisions are open, and how a choice becomes a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from spaces.candidate import Candidate, Value
from spaces.domains import Domain
from spaces.errors import InvalidCandidateError
from spaces.sparsifiers.base import Sparsifier


class SearchSpace(ABC):
    """The compression decisions that are open for one reference network.

    A space is built once, from the traced network, and never changes, so that workers can share it.

    Class attributes:
        quantizes: Whether its networks are quantized: nothing can be cut from them or quantized again.
    """

    quantizes: ClassVar[bool] = False

    @property
    @abstractmethod
    def domains(self) -> Mapping[str, Domain]:
        """Legal values of every decision, by decision name, in graph order."""

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

    def sparsifier(self, candidate: Candidate) -> Sparsifier | None:
        """Return the sparsifier that trains towards ``candidate``, or None where nothing is to be trained."""
        return None

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return the costs known without building the network (such as ``macs`` and ``parameters``)."""
        return {}

    def cheapest(self) -> Candidate | None:
        """Return the candidate that costs least, None where it is not known which does."""
        return None

    def describe(self, candidate: Candidate) -> dict[str, Value]:
        """Return ``candidate`` in readable values, such as the keep ratio of every layer."""
        return dict(candidate.values)

    @abstractmethod
    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return JSON data from which :func:`spaces.transformation.apply` rebuilds the realized network's structure."""

    def transformation_of(self, candidate: Candidate, prepared: nn.Module) -> dict[str, Any]:
        """Return the :meth:`transformation` of a trained prepared network, where training decides what stays."""
        return self.transformation(candidate)
