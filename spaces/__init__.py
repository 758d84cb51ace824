"""Search spaces: the decisions that are open in a network, and the network that a choice makes."""

SPACES = {
    "channel_mask": "spaces.channel_mask:ChannelMask",
    "pruning_schedule": "spaces.pruning_schedule:PruningSchedule",
    "bit_width": "spaces.bit_width:BitWidth",
    "joint": "spaces.joint:Joint",
    "filter_ratio": "spaces.filter_ratio:FilterRatio",
    "depth": "spaces.depth:Depth",
}
