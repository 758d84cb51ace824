"""Sparsifiers: methods that drive weights or scaling factors towards zero while a network trains."""

SPARSIFIERS = {
    "scaling_factor": "spaces.sparsifiers.scaling_factor:ScalingFactor",
    "channel_exploration": "spaces.sparsifiers.channel_exploration:ChannelExploration",
    "gradient_cut": "spaces.sparsifiers.gradient_cut:GradientCut",
    "probabilistic": "spaces.sparsifiers.probabilistic:Probabilistic",
}
