"""Closed lists of networks that a run folder may name: one file per library."""

LISTS = {
    "shipped": "search.trust.lists.shipped:ShippedNetworks",
    "torchvision": "search.trust.lists.torchvision:TorchvisionModels",
    "timm": "search.trust.lists.timm:TimmModels",
    "transformers": "search.trust.lists.transformers:TransformersModels",
}
