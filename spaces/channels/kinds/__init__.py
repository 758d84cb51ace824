"""Layer kinds: a file per kind, with all that is known of it (see :class:`spaces.layers.layer_kind.LayerKind`)."""

LAYER_KINDS = {
    "conv_transpose": "spaces.channels.kinds.conv_transpose:TransposedConvolution",
    "conv": "spaces.channels.kinds.conv:Convolution",
    "linear": "spaces.channels.kinds.linear:Linear",
    "norm": "spaces.channels.kinds.norm:ChannelwiseNorm",
    "layer_norm": "spaces.channels.kinds.layer_norm:LayerNorm",
    "group_norm": "spaces.channels.kinds.group_norm:GroupNorm",
    "recurrent": "spaces.channels.kinds.recurrent:Recurrent",
    "embedding": "spaces.channels.kinds.embedding:Embedding",
    "attention": "spaces.channels.kinds.attention:Attention",
}
