"""Sparse training on scaling factors: the gradient-limited L1/2 penalty, and plain L1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from spaces.errors import UnsupportedModelError
from spaces.execution.batch import Nested
from spaces.execution.forward import Forward
from spaces.patterns import reason_left_out, require_matches
from spaces.sparsifiers.base import Sparsifier

Penalty = Literal["l1_half", "l1"]


def penalty_value(factors: Tensor, penalty: Penalty, epsilon: float) -> Tensor:
    """Return ``sum(sqrt(|gamma| + epsilon))`` for ``l1_half`` and ``sum(|gamma|)`` for ``l1``, a scalar."""
    magnitudes = factors.abs()
    return magnitudes.sum() if penalty == "l1" else (magnitudes + epsilon).sqrt().sum()


def penalty_slope(factors: Tensor, penalty: Penalty, epsilon: float) -> Tensor:
    """Return the derivative of :func:`penalty_value` by every factor, of the factors' shape; 0 where a factor is 0.

    For ``l1_half`` this is ``sign(gamma) / (2 sqrt(|gamma| + epsilon))``, never above ``1 / (2 sqrt(epsilon))``.
    """
    signs = factors.sign()
    return signs if penalty == "l1" else signs * (factors.abs() + epsilon).rsqrt() * 0.5


class _Penalty(torch.autograd.Function):
    """``strength * R(gamma)`` of several vectors of factors, with its exact gradient."""

    @staticmethod
    def forward(ctx: Any, penalty: Penalty, epsilon: float, strength: float, *factors: Tensor) -> Tensor:
        """Return the scalar, float32."""
        ctx.save_for_backward(*factors)
        ctx.options = penalty, epsilon, strength
        return strength * torch.stack([penalty_value(factor, penalty, epsilon).float() for factor in factors]).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the factors."""
        penalty, epsilon, strength = ctx.options
        slopes = (penalty_slope(factor, penalty, epsilon) * strength * gradients[0] for factor in ctx.saved_tensors)
        return None, None, None, *slopes


@dataclass(frozen=True)
class ScalingFactorSettings:
    """Options of :class:`ScalingFactor`.

    Attributes:
        penalty: ``l1_half`` (gradient-limited L1/2) or ``l1`` (network slimming).
        strength: Lambda, the penalty's weight in the objective. Choose it so that ``strength / (2 sqrt(epsilon))`` is
            1e-4 to 1e-3 for ``l1_half``.
        epsilon: Limits the slope of ``l1_half`` to ``1 / (2 sqrt(epsilon))``: 1e-2 to 5, 1e-4 to 50.
        layers: ``batch_norm``, or ``all_norms`` for GroupNorm, LayerNorm and InstanceNorm weights too.
        include: Name patterns (``stage1.*``) of the normalisation layers to take; empty takes all.
        exclude: Name patterns of the normalisation layers to leave alone.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    penalty: Penalty = "l1_half"
    strength: float = 1e-4
    epsilon: float = 1e-2
    layers: Literal["batch_norm", "all_norms"] = "batch_norm"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise ValueError(f"strength: expected a number of at least 0, got {self.strength}")
        if not self.epsilon > 0:
            raise ValueError(f"epsilon: expected a number above 0, got {self.epsilon}")


class ScalingFactor(Sparsifier):
    """Adds ``strength * R(gamma)`` to the objective, ``gamma`` being the scaling factors of the normalisation layers.

    ``l1_half`` is ``R = sum sqrt(|gamma| + epsilon)``: the objective with a penalty on the scaling factors is the
    published method (CN111105035A; Wang, Li, Shi, Xie, Wang, Neurocomputing 404, 2020, doi
    10.1016/j.neucom.2020.03.082), this form of its "gradient-limited L1/2" is our reading. ``l1`` is network
    slimming (Liu et al. 2017, arXiv 1708.06519).

    The penalty is a term of the loss, as in the source: the epoch's loss contains it, and a limit on the gradient's norm
    (``clip_norm``) is over the gradient of the sum.
    """

    Settings = ScalingFactorSettings
    settings: ScalingFactorSettings

    def __init__(self, settings: ScalingFactorSettings) -> None:
        super().__init__(settings)
        self._factors: dict[str, nn.Parameter] = {}

    def trace(self, model: nn.Module, inputs: Nested, forward: Forward) -> None:
        """Raise if ``model`` has no scaling factors to train; :meth:`start` finds those of the network that is trained.

        Raises:
            UnsupportedModelError: No layer has scaling factors that may be trained, or the patterns leave none.
        """
        self._found(model)

    def start(self, model: nn.Module, total_steps: int) -> None:
        """Find the scaling factors of ``model``.

        Raises:
            UnsupportedModelError: No layer has scaling factors that may be trained, or the patterns leave none.
        """
        self._factors = self._found(model)

    def _found(self, model: nn.Module) -> dict[str, nn.Parameter]:
        kinds: tuple[type[nn.Module], ...] = (_BatchNorm,)
        if self.settings.layers == "all_norms":
            kinds = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.modules.instancenorm._InstanceNorm)
        found = {
            name: module.weight
            for name, module in model.named_modules()
            if isinstance(module, kinds) and isinstance(module.weight, nn.Parameter) and module.weight.requires_grad
        }
        if not found:
            kind = "BatchNorm layer" if self.settings.layers == "batch_norm" else "normalisation layer"
            raise UnsupportedModelError(
                f"sparse training on scaling factors needs a {kind} with trainable weights and {type(model).__name__} "
                "has none; set layers: all_norms if it has GroupNorm or LayerNorm, or leave sparse_training out"
            )
        include, exclude = self.settings.include, self.settings.exclude
        require_matches((*include, *exclude), (name for name, _ in model.named_modules() if name))
        factors = {name: weight for name, weight in found.items() if not reason_left_out(name, include, exclude)}
        if not factors:
            raise UnsupportedModelError(
                f"include {list(include)} and exclude {list(exclude)} leave no "
                f"normalisation layer to train towards sparsity; the network has {', '.join(list(found)[:8])}"
                + (f" and {len(found) - 8} more" if len(found) > 8 else "")
            )
        return factors

    @property
    def factors(self) -> dict[str, Tensor]:
        """The scaling factors by layer name, each of shape ``(channels,)``; live, not copies."""
        return {name: weight.detach() for name, weight in self._factors.items()}

    def penalty(self) -> Tensor:
        """Return ``strength * R(gamma)``, a scalar whose gradient by a scaling factor is ``strength * penalty_slope``."""
        settings = self.settings
        value: Tensor = _Penalty.apply(settings.penalty, settings.epsilon, settings.strength, *self._factors.values())
        return value
