"""Parameters: the decisions of a space as numbers and categories that a general sampler can draw."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from search.algorithms.encoding.channel_encoding import ChannelEncoding
from search.algorithms.encoding.repair import fit_to_targets
from search.algorithms.encoding.sweep import SMALL_SPACE
from search.study.problem import Problem
from spaces.candidate import Candidate, KeepMask, Value
from spaces.domains import Choice, Domain, Mask, Real
from spaces.errors import SecateursError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

LOAD = "load"
_LEAST_SHARE = 0.05


class Parameters(ABC):
    """Turns parameters into candidates and back.

    Attributes:
        distributions: The range of every parameter, in Optuna's terms.
    """

    distributions: Mapping[str, BaseDistribution]

    @abstractmethod
    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        """Return the candidate that the parameters stand for."""

    @abstractmethod
    def values(self, candidate: Candidate) -> dict[str, Any]:
        """Return the parameters of a candidate, the nearest ones where there are none."""

    @abstractmethod
    def enumerate(self) -> Iterator[Candidate]:
        """Yield every candidate once where there are few, else none."""


def parameters_of(problem: Problem) -> Parameters:
    """Return the parameters of a problem's space.

    Raises:
        SecateursError: A decision is of a kind that is not known here; or, for keep-masks, no candidate keeps the targets.
    """
    domains = problem.space.domains.values()
    masks = [isinstance(domain, Mask) for domain in domains]
    if any(masks) and all(map(_is_ordered, domains)) and "importance" in problem.tables:
        return Shares(problem)
    return Decisions(problem)


class Decisions(Parameters):
    """A parameter per decision: the position among its options, the number itself, or how many channels a mask keeps.

    Options that are numbers are ordered, others are categories. A mask keeps its most important channels where the tables
    know them, else the first ones.
    """

    def __init__(self, problem: Problem) -> None:
        self._domains = problem.space.domains
        importance = problem.tables.get("importance") or {}
        self._orders = {
            name: np.argsort(-np.asarray(importance[name]), kind="stable") if name in importance else np.arange(domain.length)
            for name, domain in self._domains.items()
            if isinstance(domain, Mask)
        }
        self.distributions = {
            name: found for name, domain in self._domains.items() if (found := _distribution(name, domain)) is not None
        }

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        return Candidate({name: self._value(name, domain, values) for name, domain in self._domains.items()})

    def values(self, candidate: Candidate) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in self.distributions:
            domain, value = self._domains[name], candidate.values[name]
            if isinstance(domain, Choice):
                found[name] = next(place for place, option in enumerate(_ordered(domain)) if option == value)
            elif isinstance(domain, Mask):
                found[name] = domain.legal_counts().index(int(candidate.mask(name).sum()))
            else:
                found[name] = value
        return found

    def enumerate(self) -> Iterator[Candidate]:
        options = {name: _options(domain) for name, domain in self._domains.items()}
        if not all(options.values()) or math.prod(len(places) for places in options.values()) > SMALL_SPACE:
            return
        for places in itertools.product(*options.values()):
            yield self.candidate(dict(zip(options, places, strict=True)))

    def _value(self, name: str, domain: Domain, values: Mapping[str, Any]) -> Value | KeepMask:
        if isinstance(domain, Choice):
            return _ordered(domain)[int(values.get(name, 0))]
        if isinstance(domain, Mask):
            bits = np.zeros(domain.length, dtype=bool)
            bits[self._orders[name][: domain.legal_counts()[int(values.get(name, 0))]]] = True
            return bits
        assert isinstance(domain, Real)
        return min(max(float(values.get(name, domain.low)), domain.low), domain.high)


class Shares(Parameters):
    """Keep-masks, and bits beside them: a share for every decision, all scaled together until the network costs what it may.

    So every candidate keeps the targets, and uses them up. Without a target, or for a front, how much it costs is a parameter
    of its own. A layer keeps its most important channels, and has so large a share of the bits that it may have. This is how
    random search draws, too.
    """

    def __init__(self, problem: Problem) -> None:
        from optuna.distributions import FloatDistribution

        self._encoding = encoding = ChannelEncoding(problem)
        self._smallest = encoding.load(encoding.smallest())
        self._free = not encoding.constrained or len(problem.objectives) > 1
        # Where there are masks only, a parameter for each of them, whether there is something to decide or not.
        self._open = [
            n for n, legal in zip(encoding.names, encoding.counts, strict=True) if len(legal) > 1 or not encoding.mixed
        ]
        self.distributions = {name: FloatDistribution(_LEAST_SHARE, 1.0) for name in self._open}
        if self._free and self._smallest < 1.0:
            self.distributions[LOAD] = FloatDistribution(self._smallest, 1.0)

    def candidate(self, values: Mapping[str, Any]) -> Candidate:
        encoding = self._encoding
        named = zip(encoding.names, encoding.ranks, strict=True)
        scores = [float(values.get(name, 1.0)) / (1.0 - ranks) for name, ranks in named]
        return encoding.candidate(fit_to_targets(encoding, encoding.full(), scores, limit=float(values.get(LOAD, 1.0))))

    def values(self, candidate: Candidate) -> dict[str, Any]:
        masks = self._encoding.masks(candidate)
        shares = {name: max(float(mask.mean()), _LEAST_SHARE) for name, mask in zip(self._encoding.names, masks, strict=True)}
        found = {name: shares[name] for name in self._open}
        if LOAD in self.distributions:
            found[LOAD] = min(max(self._encoding.load_of(candidate), self._smallest), 1.0)
        return found

    def enumerate(self) -> Iterator[Candidate]:
        if self._encoding.size() <= SMALL_SPACE:
            yield from map(self._encoding.candidate, self._encoding.enumerate())


def _distribution(name: str, domain: Domain) -> BaseDistribution | None:
    """Return the range of a decision's parameter, None where there is nothing to decide."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(domain, Real):
        return FloatDistribution(domain.low, domain.high, log=domain.log) if domain.low < domain.high else None
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
    """Return the positions of a finite domain's options, empty for another."""
    if isinstance(domain, Choice):
        return list(range(len(domain.options)))
    return list(range(len(domain.legal_counts()))) if isinstance(domain, Mask) else []


def _is_ordered(domain: Domain) -> bool:
    if isinstance(domain, Choice):
        return all(isinstance(option, int | float) and not isinstance(option, bool) for option in domain.options)
    return isinstance(domain, Mask)


def _ordered(domain: Choice) -> list[Value]:
    return sorted(domain.options) if _is_ordered(domain) else list(domain.options)
