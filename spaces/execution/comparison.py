"""Comparison of a smaller network with its masked form: outputs, in double precision where the network runs in it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from spaces.errors import EquivalenceError, error_line
from spaces.execution.batch import Nested, map_tensors
from spaces.execution.code_places import failed_place
from spaces.execution.forward import Forward, call, in_double, tensors_in
from spaces.execution.randomness import kept_randomness
from spaces.execution.watched_run import WatchedRun

TOLERANCE = 1e-8
"""Largest accepted difference in double precision, relative to the largest output."""

SINGLE_TOLERANCE = 1e-4
"""The same in single precision."""


def output_difference(
    sliced: nn.Module, masked: nn.Module, inputs: Nested, forward: Forward = call, originals: Iterable[nn.Module] = ()
) -> float:
    """Return the largest absolute difference between the outputs of a sliced and a masked network.

    Both run in evaluation mode on random inputs of the shape of ``inputs`` (as they are where they are integers), in float64;
    a network that does not run in float64 is compared in its own types, on ``inputs``, with a tolerance from the coarsest of
    them. What a network draws is one value for all elements of an operator's result, the same for both, so that it is cut
    with any channel. Types and modes of both networks change in place.

    Args:
        sliced: The smaller network.
        masked: The network of the shapes of the original.
        inputs: One batch of a single sample, of shape ``(1, ...)``.
        forward: How both are run.
        originals: Networks of which ``sliced`` must read no tensor.

    Raises:
        EquivalenceError: The sliced network fails, reads a tensor of another, its output has another shape, or it differs by
            more than the tolerance times the largest output.
    """
    types = [_types(network) for network in (sliced, masked)]
    try:
        with in_double():
            return compare(sliced.double(), masked.double(), probe(inputs, torch.float64), forward, TOLERANCE, originals)
    except _MaskedFailedError:
        for network, kept in zip((sliced, masked), types, strict=True):
            _restore(network, kept)
    try:
        return compare(sliced, masked, inputs, forward, None, originals)
    except _MaskedFailedError as failed:
        raise EquivalenceError(str(failed)) from failed


def compare(
    sliced: nn.Module,
    masked: nn.Module,
    inputs: Nested,
    forward: Forward,
    tolerance: float | None,
    originals: Iterable[nn.Module] = (),
) -> float:
    """Return the largest absolute difference of outputs on ``inputs``, in evaluation mode, in the types that the networks have.

    Args:
        sliced: The smaller network.
        masked: The network that it should equal.
        inputs: A batch of shape ``(N, ...)``.
        forward: How both are run.
        tolerance: Accepted difference relative to the largest output; None for that of the coarsest type that is met.
        originals: Networks of which ``sliced`` must read no tensor.
    """
    sliced.eval()
    masked.eval()
    with torch.no_grad(), kept_randomness(), eager():
        dense = WatchedRun()
        try:
            with dense:
                expected = tensors_in(forward(masked, map_tensors(Tensor.clone, inputs)))
        except Exception as failed:
            raise _MaskedFailedError(_failure("the network", failed, masked)) from failed
        small = WatchedRun({name: tensor for network in (masked, *originals) for name, tensor in _state(network)})
        try:
            with small:
                answers = tensors_in(forward(sliced, map_tensors(Tensor.clone, inputs)))
        except EquivalenceError:
            raise
        except Exception as failed:
            if small.borrowed:
                raise EquivalenceError(small.borrowed_message()) from failed
            raise EquivalenceError(_failure("the sliced network", failed, sliced)) from failed
    if small.borrowed:
        raise EquivalenceError(small.borrowed_message())
    if [answer.shape for answer in answers] != [output.shape for output in expected]:
        shapes = [tuple(answer.shape) for answer in answers], [tuple(output.shape) for output in expected]
        raise EquivalenceError(f"the sliced network's output has shape {shapes[0]}, expected {shapes[1]}")
    error, scale = largest_gap(answers, expected)
    allowed = max(SINGLE_TOLERANCE, dense.tolerance) if tolerance is None else tolerance
    if not error <= allowed * max(scale, 1e-300):
        raise EquivalenceError(
            f"the sliced network's output differs from the masked one's by {error:.3g} (outputs up to {scale:.3g})"
        )
    return error


def largest_gap(answers: Iterable[Tensor], expected: Iterable[Tensor]) -> tuple[float, float]:
    """Return the largest absolute difference between tensors of equal shapes, and the largest finite value expected."""
    pairs = [(_values(one), _values(other)) for one, other in zip(answers, expected, strict=True) if other.numel()]
    # Equal infinities, as in masked logits, differ by nothing; whatever is no number, by everything.
    gaps = [torch.where(one == other, 0.0, (one - other).abs()).nan_to_num(nan=torch.inf) for one, other in pairs]
    error = max((float(gap.max()) for gap in gaps), default=0.0)
    return error, max((float(other.abs().nan_to_num(posinf=0.0).max()) for _, other in pairs), default=0.0)


class _MaskedFailedError(EquivalenceError):
    """The masked network itself does not run in this type, or on these inputs."""


def probe(inputs: Nested, dtype: torch.dtype) -> Nested:
    """Return random inputs of the shapes of ``inputs``; entries that are no floating-point numbers are as they were."""
    generator = torch.Generator().manual_seed(0)

    def drawn(entry: Tensor) -> Tensor:
        if not entry.is_floating_point():
            return entry
        return torch.randn(entry.shape, generator=generator, dtype=torch.float64).to(entry.device, dtype)

    return map_tensors(drawn, inputs)


@contextmanager
def eager() -> Iterator[None]:
    """Run functions and modules that are compiled by ``torch.compile`` as they were before, while the context lasts."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _failure(what: str, failed: Exception, network: nn.Module) -> str:
    module, line = failed_place(failed, network)
    place = ": ".join(filter(None, (module, line)))
    return f"{place or what} fails{' in ' + what if place else ''}: {error_line(failed)}"


def _values(tensor: Tensor) -> Tensor:
    """Return the values of any tensor as float64, complex128 where they are complex."""
    plain = tensor.dequantize() if tensor.is_quantized else tensor
    return plain.to_dense().to(torch.complex128 if plain.is_complex() else torch.float64)


def _state(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _types(network: nn.Module) -> dict[str, torch.dtype]:
    return {name: tensor.dtype for name, tensor in _state(network)}


def _restore(network: nn.Module, types: dict[str, torch.dtype]) -> None:
    """Give the tensors of ``network`` their types back, in place."""
    for name, tensor in _state(network):
        tensor.data = tensor.data.to(types[name])
