"""Options of the joint space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from spaces.bit_width import BitWidthSettings
from spaces.channel_mask import ChannelMaskSettings
from spaces.depth import DepthSettings

Part = Literal["channel_mask", "depth", "bit_width"]
"""A space that is decided together with others."""

CHANNELS: Part = "channel_mask"
DEPTH: Part = "depth"
BITS: Part = "bit_width"


@dataclass(frozen=True)
class JointSettings:
    """Options of the joint space.

    Attributes:
        channels: Options of the channels, those of the space ``channel_mask``.
        bits: Options of the bits, those of the space ``bit_width`` but for its table ``latency``, which knows no channels;
            with ``depth`` operands of additions stay in float.
        calibration_samples: Samples on which BatchNorm statistics and the ranges of activations of every candidate are found
            anew, since both move when channels or branches go.
        spaces: What is decided together, two or three of ``channel_mask`` (channels, heads and whatever else it cuts),
            ``depth`` (branches or blocks) and ``bit_width``.
        depth: Options of the branches or blocks, those of the space ``depth``.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    channels: ChannelMaskSettings = field(default_factory=ChannelMaskSettings)
    bits: BitWidthSettings = field(default_factory=BitWidthSettings)
    calibration_samples: int = 256
    spaces: tuple[Part, ...] = (CHANNELS, BITS)
    depth: DepthSettings = field(default_factory=DepthSettings)

    def __post_init__(self) -> None:
        """Raise ValueError for an option out of its range, with the option's name."""
        if len(self.spaces) < 2 or len(set(self.spaces)) < len(self.spaces):
            raise ValueError(
                f"spaces: expected two or three different ones of channel_mask, depth and bit_width, got {list(self.spaces)}"
            )
        if self.calibration_samples < 1:
            raise ValueError(f"calibration_samples: expected at least 1, got {self.calibration_samples}")
        if self.bits.latency:
            raise ValueError("bits.latency is a table for all channels: expected none here; the evaluator latency measures one")
