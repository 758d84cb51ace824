"""Decisions of a space as numerical and categorical parameters for a general sampler."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.repair import fit_to_targets
from search.algorithms.encoding.sweep import SMALL_SPACE
from search.study.problem import Problem
from spaces.candidate import Candidate, KeepMask, Value
from spaces.domains import Domain
from spaces.errors import SecateursError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LOAD = "load"
_LEAST_SHARE = 0.05


class Parameters(ABC):
    """A mapping between parameters and candidates.

    Attributes:
        distributions: Optuna distribution of each parameter, by name.
    """

    distributions: Mapping[str, BaseDistribution]

    @abstractmethod
    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        """Return the candidate of parameter ``values``."""

    @abstractmethod
    def values(self, candidate: Candidate) -> dict[str, Any]:
        """Return the parameters of a candidate, or the nearest if no parameters give exactly this candidate."""

    @abstractmethod
    def enumerate(self) -> Iterator[Candidate]:
        """Yield every candidate once if the space is small, else nothing."""


def parameters_of(problem: Problem) -> Parameters:
    """Return shares for a space of keep-masks with importance, else one parameter per decision.

    Raises:
        SecateursError: A domain is of an unknown type; or, with shares, no candidate keeps the targets.
    """
    domains = problem.space.domains.values()
    if any(domain.channels for domain in domains) and all(map(_is_ordered, domains)) and "importance" in problem.tables:
        return Shares(problem)
    return Decisions(problem)


class Decisions(Parameters):
    """One parameter per decision: index of the option, the number itself, or index of the legal number of kept channels.

    Options that are numbers are ordered, others are categories. A mask keeps its most important channels by the tables,
    without importance the first ones.
    """

    def __init__(self, problem: Problem) -> None:
        """Make a distribution for each decision with more than one value."""
        self._domains = problem.space.domains
        importance = problem.tables.get("importance") or {}
        self._orders = {
            name: np.argsort(-np.asarray(importance[name]), kind="stable") if name in importance else np.arange(domain.channels)
            for name, domain in self._domains.items()
            if domain.channels
        }
        self.distributions = {
            name: found for name, domain in self._domains.items() if (found := _distribution(name, domain)) is not None
        }

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        """Return the candidate of parameter ``values``; a missing one is the first option or the lowest number."""
        return Candidate({name: self._value(name, domain, values) for name, domain in self._domains.items()})

    def values(self, candidate: Candidate) -> dict[str, Any]:
        """Return the parameters of a candidate."""
        found: dict[str, Any] = {}
        for name in self.distributions:
            domain, value = self._domains[name], candidate.values[name]
            if domain.choices:
                found[name] = next(place for place, option in enumerate(_ordered(domain)) if option == value)
            elif domain.channels:
                found[name] = domain.legal_counts().index(int(candidate.mask(name).sum()))
            else:
                found[name] = value
        return found

    def enumerate(self) -> Iterator[Candidate]:
        """Yield every combination of options, with masks as prefixes, if there are at most :data:`SMALL_SPACE`."""
        options = {name: _options(domain) for name, domain in self._domains.items()}
        if not all(options.values()) or math.prod(len(places) for places in options.values()) > SMALL_SPACE:
            return
        for places in itertools.product(*options.values()):
            yield self.candidate(dict(zip(options, places, strict=True)))

    def _value(self, name: str, domain: Domain, values: Mapping[str, Any]) -> Value | KeepMask:
        if domain.choices:
            return _ordered(domain)[int(values.get(name, 0))]
        if domain.channels:
            bits = np.zeros(domain.channels, dtype=bool)
            bits[self._orders[name][: domain.legal_counts()[int(values.get(name, 0))]]] = True
            return bits
        low, high = domain.bounds or (0.0, 0.0)
        return min(max(float(values.get(name, low)), low), high)


class Shares(Parameters):
    """One share per keep-mask or choice of bits, all scaled together until the network costs as much as the targets allow.

    Every candidate therefore keeps the targets and uses them up. Without a target, or for a front, the cost is a further
    parameter. A layer keeps its most important channels. :func:`random_masks` draws in the same way.
    """

    def __init__(self, problem: Problem) -> None:
        """Make a distribution for each decision with several legal counts, and for the load unless it is fixed."""
        from optuna.distributions import FloatDistribution

        self._encoding = encoding = ChannelEncoding(problem)
        self._smallest = encoding.load(encoding.smallest())
        self._free = not encoding.constrained or len(problem.objectives) > 1
        # Without choices beside them, fixed masks have a parameter too.
        self._open = [
            n for n, legal in zip(encoding.names, encoding.counts, strict=True) if len(legal) > 1 or not encoding.mixed
        ]
        self.distributions = {name: FloatDistribution(_LEAST_SHARE, 1.0) for name in self._open}
        if self._free and self._smallest < 1.0:
            self.distributions[LOAD] = FloatDistribution(self._smallest, 1.0)

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        """Return the candidate with shares in the given proportion, scaled to the load."""
        encoding = self._encoding
        named = zip(encoding.names, encoding.ranks, strict=True)
        scores = [float(values.get(name, 1.0)) / (1.0 - ranks) for name, ranks in named]
        return encoding.candidate(fit_to_targets(encoding, encoding.full(), scores, limit=float(values.get(LOAD, 1.0))))

    def values(self, candidate: Candidate) -> dict[str, Any]:
        """Return the share that each decision keeps, and the load."""
        masks = self._encoding.masks(candidate)
        shares = {name: max(float(mask.mean()), _LEAST_SHARE) for name, mask in zip(self._encoding.names, masks, strict=True)}
        found = {name: shares[name] for name in self._open}
        if LOAD in self.distributions:
            found[LOAD] = min(max(self._encoding.load_of(candidate), self._smallest), 1.0)
        return found

    def enumerate(self) -> Iterator[Candidate]:
        """Yield every legal candidate if there are at most :data:`SMALL_SPACE`."""
        if self._encoding.size() <= SMALL_SPACE:
            yield from map(self._encoding.candidate, self._encoding.enumerate())


def _distribution(name: str, domain: Domain) -> BaseDistribution | None:
    """Return the distribution of a decision's parameter, None for a single value.

    Raises:
        SecateursError: The domain has neither options nor a range.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if domain.bounds is not None:
        low, high = domain.bounds
        return FloatDistribution(low, high, log=domain.log) if low < high else None
    places = _options(domain)
    if not places:
        raise SecateursError(
            f"decision {name!r} is {domain.describe}: expected options, numbers or keep-masks, which a sampler can draw; "
            "take another algorithm for this space"
        )
    if len(places) < 2:
        return None
    return IntDistribution(0, len(places) - 1) if _is_ordered(domain) else CategoricalDistribution(places)


def _options(domain: Domain) -> list[int]:
    """Return the indices of the options of a finite domain, [] for any other."""
    return list(range(len(domain.choices or domain.legal_counts())))


def _is_ordered(domain: Domain) -> bool:
    return bool(domain.numbers or domain.channels)


def _ordered(domain: Domain) -> Sequence[Value]:
    return domain.numbers or domain.choices
