"""The space of depth: which residual branches, or which blocks of chains, stay in a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from torch import nn

from spaces.base import Row, SearchSpace, Solve
from spaces.candidate import Candidate
from spaces.channels.surgery import Cut
from spaces.cloning.admission import admitted
from spaces.cloning.clone import clone
from spaces.domains import Choice
from spaces.errors import EquivalenceError, InvalidCandidateError, UnsupportedModelError, error_line
from spaces.execution.batch import Nested, count_samples
from spaces.execution.comparison import eager, output_difference
from spaces.execution.forward import Forward, call
from spaces.execution.randomness import kept_randomness
from spaces.frozen import Frozen
from spaces.latency.layer_latency import Beside, Load, OpenLayer
from spaces.layers.macs import FLOAT_BITS
from spaces.layers.shape_inference import layer_shapes
from spaces.layers.split_attention import split_encoders
from spaces.patterns import reason_left_out, require_matches
from spaces.residual.additions import branches_zeroed
from spaces.residual.finding import blocks, branches, flow_graph
from spaces.residual.influence import influence
from spaces.residual.removal import KIND, remove
from spaces.residual.state_sizes import StateSizes
from spaces.residual.units import Removal, Unit

REMOVED = "removed_units"
"""Cost that counts the units that are gone."""

SAMPLES = 256
"""Most samples that the influence of units is measured on (ours)."""


@dataclass(frozen=True)
class DepthSettings:
    """Options of the space of depth.

    Attributes:
        max_removed: Most units that may go together; None for no limit.
        unit: ``branch`` for each branch by itself, which is what lies between a value and the addition to that value, such as
            an attention, an MLP or the convolutions of a residual block; ``block`` for the elements of a chain whose input and
            output have one shape.
        include: Name patterns of units that may go; empty for all.
        exclude: Name patterns of units that stay.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    max_removed: int | None = None
    unit: Literal["branch", "block"] = "branch"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if self.max_removed is not None and self.max_removed < 1:
            raise ValueError(f"max_removed: expected at least 1, got {self.max_removed}")


class Depth(SearchSpace[DepthSettings]):
    """A decision per branch or block: 1 where it stays, 0 where it is gone.

    A removed branch is gone with all that only it used: its modules are not in the state dict any more, stubs stand in their
    places, and the value that it was added to passes on. The reference is the network with the branch's output times zero, or
    with the block's input in the place of its output.

    Args:
        model: The network; left unchanged.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        settings: Kind of units, and how many may go.
        forward: How ``model`` is run on ``inputs``.
        batches: Input batches that the influence of units is measured on, the order in which greedy baselines remove them.

    Attributes:
        units: The units that may go, in graph order.

    Raises:
        UnsupportedModelError: The network has no unit of the kind, or a pattern matches none.
    """

    Settings = DepthSettings
    target_remedy = "raise the target, or open more of the model with max_removed, include and exclude"

    def __init__(
        self,
        model: nn.Module,
        inputs: Nested,
        settings: DepthSettings | None = None,
        *,
        forward: Forward = call,
        batches: Iterable[Nested] = (),
    ) -> None:
        """Find the units, and compare the network without them with the network in which they are zero."""
        super().__init__(model, inputs, settings, forward=forward)
        settings = self.settings
        with kept_randomness(), eager():
            own = split_encoders(admitted(model))
            self._graph = flow_graph(own, self._inputs, forward)
            found = blocks(self._graph) if settings.unit == "block" else branches(self._graph)
            require_matches((*settings.include, *settings.exclude), (unit.name for unit in found), settings.unit)
            reasons = {unit.name: reason_left_out(unit.name, settings.include, settings.exclude) for unit in found}
            self.units = [unit for unit in found if not reasons[unit.name]]
            self._sizes, self._shapes = StateSizes.of(own), layer_shapes(own, self._inputs, forward)
            self._removals: dict[frozenset[str], tuple[Removal, dict[str, float]]] = {}
            reasons |= self._faults(own)
            self.units = [unit for unit in self.units if not reasons[unit.name]]
            self._kept = [(unit, reasons[unit.name]) for unit in found if reasons[unit.name]]
            if not self.units:
                told = "; ".join(sorted(set(reasons.values()))[:5]) or self._missing()
                raise UnsupportedModelError(f"no {settings.unit} of this network can be removed: {told}")
            self._influence = influence(own, self.units, _first(batches, SAMPLES), forward)

    @cached_property
    def domains(self) -> Mapping[str, Choice]:
        """0 and 1 for every unit, in graph order."""
        return {unit.name: Choice((0, 1)) for unit in self.units}

    @cached_property
    def frozen(self) -> Sequence[Frozen]:
        """Units that stay, each with the reason."""
        return [self._part(unit, reason) for unit, reason in self._kept]

    @cached_property
    def removable(self) -> Sequence[Frozen]:
        """The units that may go, with their parameters and modules."""
        return [self._part(unit) for unit in self.units]

    @cached_property
    def levels(self) -> Mapping[str, Sequence[int]]:
        """0 and 1 for every unit: gone, and there."""
        return dict.fromkeys(self.domains, (0, 1))

    def gains(self) -> Mapping[str, np.ndarray]:
        """Return, for every unit, 1 and its influence, scaled to at most 1: what its two levels are worth."""
        most = max(*self._influence.values(), 1e-30)
        return {name: np.array([1.0, self._influence[name] / most]) for name in self.domains}

    @cached_property
    def limits(self) -> Mapping[str, float]:
        """The setting ``max_removed``, as a limit on ``removed_units``."""
        return {} if self.settings.max_removed is None else {REMOVED: float(self.settings.max_removed)}

    def excess(self, candidate: Candidate) -> float:
        """Return the number of removed units above ``max_removed``."""
        most = self.settings.max_removed
        return 0.0 if most is None else max(0.0, float(len(self._gone(candidate)) - most))

    def validate(self, candidate: Candidate) -> None:
        """Check every decision, and the number of units that are gone.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain, or too many units are gone.
        """
        super().validate(candidate)
        if self.excess(candidate) > 0.0:
            gone = len(self._gone(candidate))
            raise InvalidCandidateError(f"expected at most {self.settings.max_removed} removed units, got {gone}: max_removed")

    def sample(self, rng: np.random.Generator) -> Candidate:
        """Draw the number of units that go, then the units, each evenly."""
        gone = int(rng.integers(self._most + 1))
        places = set(rng.permutation(len(self.units))[:gone].tolist())
        return Candidate({unit.name: int(place not in places) for place, unit in enumerate(self.units)})

    def prepare(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the network without the units that are gone, which is trained as it is.

        Raises:
            InvalidCandidateError: A decision is missing, unknown or outside its domain, or too many units are gone.
        """
        self.validate(candidate)
        return remove(model, self.removal(candidate))

    def convert(self, prepared: nn.Module) -> nn.Module:
        """Return a copy of the prepared network: it has no units to remove any more."""
        return clone(prepared)

    def realize(self, model: nn.Module, candidate: Candidate) -> nn.Module:
        """Return the network without the units that are gone; ``model`` is left unchanged and shares no storage with it."""
        return self.prepare(model, candidate)

    def reconstruct(self, model: nn.Module, candidate: Candidate, solve: Solve) -> nn.Module:
        """Return the network without the units that are gone, whose layers are solved to make up for them."""
        small = self.realize(model, candidate)
        if self.gone(candidate):
            solve(small, Cut({}, {}))
        return small

    def removal(self, candidate: Candidate) -> Removal:
        """Return the modules that leave with the units that are gone."""
        return self._planned(candidate)[0]

    def products_beside(self, candidate: Candidate) -> dict[str, list[int]]:
        """Return, by module, the places of those of its own products that go with the units that are gone."""
        return self._graph.products_beside(self.gone(candidate))

    def keep(self, reasons: Mapping[str, str]) -> None:
        """Let units stay for a reason, by name; called before any candidate is made.

        Raises:
            UnsupportedModelError: None is left.
        """
        self._kept += [(unit, reasons[unit.name]) for unit in self.units if unit.name in reasons]
        self.units = [unit for unit in self.units if unit.name not in reasons]
        if not self.units:
            raise UnsupportedModelError(
                f"no {self.settings.unit} of this network can be removed: {'; '.join(sorted(set(reasons.values()))[:5])}"
            )

    def difference(self, small: nn.Module, masked: nn.Module, units: Sequence[Unit], originals: Iterable[nn.Module]) -> float:
        """Return the largest absolute difference between the outputs of a network without units and of one with them at zero.

        Args:
            small: The network without them.
            masked: The network with them, of the shapes of the original; they are taken as zero in it.
            units: The units.
            originals: Networks of which ``small`` must read no tensor.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        zeroed = [place for unit in units for place in unit.zeroed]
        skipped = {name: path for unit in units for name, path in unit.skipped.items()}

        def forward(network: nn.Module, inputs: Nested) -> Any:
            if network is not masked:
                return self._forward(network, inputs)
            with branches_zeroed(network, zeroed, skipped):
                return self._forward(network, inputs)

        return output_difference(small, masked, self._inputs, forward, originals)

    def check(self, model: nn.Module, candidate: Candidate) -> float:
        """Return the largest absolute difference between the outputs of the network without units and with units at zero.

        In evaluation mode and float64, on random inputs of the shape of ``inputs``.

        Raises:
            EquivalenceError: The outputs differ by more than rounding.
        """
        self.validate(candidate)
        with kept_randomness(), eager():
            return self._difference(model, self.gone(candidate))

    def costs(self, candidate: Candidate) -> dict[str, float]:
        """Return ``macs``, ``parameters``, ``size_bytes``, ``bit_operations``, ``removed_units``, perhaps ``latency_ms``."""
        return self._with_latency(dict(self._planned(candidate)[1]), candidate)

    def open_layers(self) -> dict[str, OpenLayer]:
        """Return every layer with a shape, by name, of which none changes but is there or gone."""
        return {name: OpenLayer(shape) for name, shape in self._shapes.items()}

    def latency_terms(self, candidate: Candidate) -> dict[str, Load]:
        """Return the channels of every layer that is left, in float."""
        removal = self.removal(candidate)
        left = {name: shape for name, shape in self._shapes.items() if not removal.holds(name)}
        return {name: (one.in_channels, one.out_channels, FLOAT_BITS, FLOAT_BITS) for name, one in left.items()}

    def latency_beside(self, candidate: Candidate) -> Beside:
        """Return the products of activations, and the units, that are left."""
        removal = self.removal(candidate)
        own = sum(macs for name, macs in self._graph.macs.items() if name not in self._shapes and not removal.holds(name))
        products = own - self._graph.macs_beside(removal, self.gone(candidate))
        return Beside(products / 1e6, self.left_by_class(candidate))

    def left_by_class(self, candidate: Candidate) -> dict[str, int]:
        """Return the number of units that are left, by the class of the module that each is named after."""
        gone, found = self._gone(candidate), dict[str, int]()
        for unit in self.units:
            part = self._graph.parts.get(unit.name)
            kind = "" if part is None else part.kind.rpartition(".")[2]
            found[kind] = found.get(kind, 0) + (unit.name not in gone)
        return found

    @cached_property
    def network_macs(self) -> float:
        """Multiply-accumulates of the whole network for one sample."""
        return float(self._graph.total)

    def cheapest(self) -> Candidate:
        """Return the candidate without the costliest units, as many as may go."""
        order = sorted(range(len(self.units)), key=lambda place: -self.units[place].macs_share)
        gone = set(order[: self._most])
        return Candidate({unit.name: int(place not in gone) for place, unit in enumerate(self.units)})

    def transformation(self, candidate: Candidate) -> dict[str, Any]:
        """Return the modules that leave and their stubs, as JSON data of the kind ``remove_branches``."""
        self.validate(candidate)
        return {"kind": KIND, "candidate": dict(candidate.values), **self.removal(candidate).to_json()}

    def report_rows(self, candidate: Candidate, made: Mapping[str, Any] | None = None) -> dict[str, list[Row]]:
        """Return ``depth``: every unit with its share of the multiply-accumulates, and whether it stays."""
        gone = self._gone(candidate)
        return {"depth": [{"name": one.name, "macs_share": one.macs_share, "kept": one.name not in gone} for one in self.units]}

    @property
    def _most(self) -> int:
        """Largest number of units that may go."""
        most = self.settings.max_removed
        return len(self.units) if most is None else min(most, len(self.units))

    def gone(self, candidate: Candidate) -> list[Unit]:
        """Return the units that are gone, in graph order."""
        return [unit for unit in self.units if candidate.number(unit.name) == 0]

    def _gone(self, candidate: Candidate) -> frozenset[str]:
        return frozenset(unit.name for unit in self.gone(candidate))

    def _planned(self, candidate: Candidate) -> tuple[Removal, dict[str, float]]:
        """Return the removal of a candidate, and its costs."""
        gone = self._gone(candidate)
        if gone not in self._removals:
            units = [unit for unit in self.units if unit.name in gone]
            removal = self._graph.removal(units)
            macs = float(self._graph.left_macs(removal, units))
            costs = {"macs": macs, **self._sizes.left(removal), "bit_operations": macs * FLOAT_BITS * FLOAT_BITS}
            self._removals[gone] = removal, {**costs, REMOVED: float(len(gone))}
        return self._removals[gone]

    def _part(self, unit: Unit, reason: str = "") -> Frozen:
        """Return a unit as a part of the network: its name, its parameters and the modules that leave with it alone."""
        removal = self._graph.removal((unit,))
        size = int(self._sizes.total - self._sizes.left(removal)["parameters"])
        return Frozen(unit.name, size, reason, unit.macs_share, tuple(removal.stubs))

    def _missing(self) -> str:
        """Return in words that there are no units."""
        if self.settings.unit == "block":
            return "it has no chain of blocks of one class whose input and output have one shape; see unit: branch"
        return "it adds nothing to a value that was made of this value by layers"

    def _faults(self, model: nn.Module) -> dict[str, str]:
        """Return why units must stay, by unit: the network without them fails, or answers or costs otherwise than expected."""
        reasons = dict.fromkeys((unit.name for unit in self.units), "")
        if not self.units:
            return reasons
        # Code beside layers sees another network without one unit than without all.
        wrong = bool(self._fault(model, self.units))
        beside = [unit for unit in self.units if wrong or self._graph.macs_beside(self._graph.removal((unit,)), (unit,))]
        return reasons | {unit.name: self._fault(model, [unit]) for unit in beside}

    def _fault(self, model: nn.Module, units: Sequence[Unit]) -> str:
        removal = self._graph.removal(units)
        try:
            small = remove(model, removal)
            counted = flow_graph(small.eval(), self._inputs, self._forward).total
            self._difference(model, units)
        except (EquivalenceError, UnsupportedModelError) as error:
            return str(error)
        except Exception as error:  # The code around a branch may fail in any way without it.
            return f"the network fails without it: {error_line(error)}"
        expected = self._graph.left_macs(removal, units)
        return "" if counted == expected else f"{counted - expected:,} MACs of it are left, in code around its layers"

    def _difference(self, model: nn.Module, units: Sequence[Unit]) -> float:
        small = remove(model, self._graph.removal(units))
        return self.difference(small, split_encoders(clone(model)), units, (model,))


def _first(batches: Iterable[Nested], samples: int) -> list[Nested]:
    """Return the first batches, of so many samples or a few more."""
    found: list[Nested] = []
    for batch in batches:
        if sum(map(count_samples, found)) < samples:
            found.append(batch)
    return found
