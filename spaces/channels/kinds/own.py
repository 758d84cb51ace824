"""Layers in the code of any module: a parameter of its own in a matrix product or convolution, a norm called as a function."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from spaces.channels.labels.atoms import compact
from spaces.channels.labels.tracker import LabelTracker
from spaces.layers.layer_kind import LayerKind
from spaces.layers.mask_hooks import MaskHook


@dataclass(frozen=True)
class OwnProduct(LayerKind):
    """Channels contracted with a parameter of the running module; not registered, since it is no kind of module.

    Attributes:
        weight: Name of the parameter.
        bias: Name of the parameter that is added; empty for none.
        rows: Dimension of ``weight`` along which the output channels lie.
        columns: Dimension along which the input channels lie.
        first: Place of the first output channel along ``rows``: other than 0 where the product is with a part of the parameter.
    """

    weight: str
    bias: str
    rows: int
    columns: int
    first: int = 0

    name = "own_product"
    modules = ()

    def trace(self, tracker: LabelTracker, output: object, *args: object, **kwargs: object) -> None:
        """Do nothing: the operator's own rule has followed the channels."""

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook | None:
        """Return None: the very call is masked."""
        return None

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the parameter and the one that is added, whole; none for a part of them behind the first."""
        if self.first:
            return ()
        return ((self.weight, self.rows), *(((self.bias, 0),) if self.bias else ()))

    def readers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return the parameter, whole; none for a part of it behind the first."""
        return ((self.weight, self.columns),) if groups == 1 and not self.first else ()

    def filters(self, module: nn.Module, outputs: int, groups: int) -> Tensor:
        """Return the parameter as one row per output channel, of shape ``(outputs, weights)``."""
        return module.get_parameter(self.weight).movedim(self.rows, 0)[self.first : self.first + outputs].reshape(outputs, -1)


@dataclass(frozen=True)
class OwnNorm(LayerKind):
    """A normalization that a module's code calls as a function; not registered, since it is no kind of module.

    Attributes:
        attribute: Name of the module's attribute that holds the normalized shape; empty for none.
    """

    attribute: str

    name = "own_norm"
    modules = ()
    produces = False

    def trace(self, tracker: LabelTracker, output: object, *args: object, **kwargs: object) -> None:
        """Do nothing: the rule of the function has followed the channels."""

    def sizes(self, inputs: int, outputs: int, groups: int, before: int) -> dict[str, int | tuple[int, ...]]:
        """Return the normalized shape."""
        return {self.attribute: (inputs,)}

    def mask_hook(self, channel_dim: int, groups: int) -> MaskHook | None:
        """Return None: the very call is masked."""
        return None

    def writers(self, groups: int) -> tuple[tuple[str, int], ...]:
        """Return no tensor."""
        return ()

    def shares_statistics(self, groups: int) -> bool:
        """Return True."""
        return True


def own_product(
    tracker: LabelTracker, weight: Tensor, bias: Tensor | None, rows: int, columns: int, first: int = 0
) -> OwnProduct:
    """Return the kind of a product with a parameter of the running module, or with its rows from ``first`` on."""
    return OwnProduct(_local(tracker, weight), "" if bias is None else _local(tracker, bias), rows, columns, first)


def own_layer(
    tracker: LabelTracker, weight: Tensor, bias: Tensor | None, atoms: Tensor, rows: int = 0
) -> tuple[OwnProduct, int]:
    """Return the kind of a layer function called with a parameter of the running module, and :func:`channel_dim`."""
    return own_product(tracker, weight, bias, rows, 1 - rows), channel_dim(tracker, atoms)


def own_norm(tracker: LabelTracker, channels: int) -> OwnNorm | None:
    """Return the kind of a norm over ``channels`` in the running module's code; None where no attribute holds its shape."""
    held = vars(tracker.stack[-1][1])
    found = (name for name, value in held.items() if isinstance(value, tuple | list) and list(value) == [channels])
    name = next(found, "")
    return OwnNorm(name) if name and tracker.stack[-1][0] else None


def channel_dim(tracker: LabelTracker, atoms: Tensor) -> int:
    """Return the dimension of the running module's input that holds ``atoms``, from the end; 0 where none does."""
    entered = tracker.stack[-1][2]
    if entered is None:
        return 0
    small = compact(tracker.labels(entered))
    wide = [dim for dim, size in enumerate(small.shape) if size > 1]
    same = len(wide) == 1 and small.numel() == len(atoms) and bool((small.reshape(-1) == atoms).all())
    return wide[0] - small.dim() if same else 0


def _local(tracker: LabelTracker, tensor: Tensor) -> str:
    """Return the name of a parameter within the running module; its last part where another module has it too."""
    name, running = tracker.names.get(id(tensor), ""), tracker.stack[-1][0]
    inside = not running or name.startswith(f"{running}.")
    return name[len(running) :].lstrip(".") if inside else name.rpartition(".")[2]
