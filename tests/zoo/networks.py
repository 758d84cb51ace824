"""All networks of the zoo by name: timm's families, transformers' architectures, torchvision's tasks."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.zoo.timm_families import TIMM
from tests.zoo.transformers_architectures import TRANSFORMERS, image

Made = tuple[nn.Module, Tensor, Callable[[nn.Module, Tensor], Any]]
"""A network, the input of a sample, and how it is run."""


def plain(model: nn.Module, inputs: Tensor) -> Any:
    """Run a network on its input alone."""
    return model(inputs)


def timm_family(family: str) -> Made:
    """Return the family's network, at 64 pixels where it takes that, else at the fewest that it takes."""
    import timm

    name, options = TIMM[family]
    refused: list[str] = []
    for side in (64, 96, 128, 224, None):
        for given in ({"img_size": side}, {}) if side is not None else ({},):
            try:
                model = timm.create_model(name, pretrained=False, **{**given, **options}).eval()
                inputs = image(side if side is not None else model.default_cfg["input_size"][-1])
                with torch.no_grad():
                    model(inputs)
            except Exception as error:  # Other people's code refuses a size in many ways.
                refused.append(f"{side}: {error}")
                continue
            return model, inputs, plain
    raise RuntimeError(f"{name} takes no size: {refused}")


def transformers_architecture(kind: str) -> Made:
    """Return a tiny network of an architecture, with random weights."""
    from transformers import AutoConfig, AutoModel

    given = TRANSFORMERS[kind]
    model: nn.Module = AutoModel.from_config(AutoConfig.for_model(kind, **given.options)).float().eval()
    return model, given.inputs(), given.forward


def segmented(model: nn.Module, inputs: Tensor) -> Any:
    """Run a network of `torchvision.models.segmentation`."""
    return model(inputs)["out"]


def detected(model: nn.Module, inputs: Tensor) -> Any:
    """Run a detector on one image."""
    return model([inputs[0]])


def frames() -> Tensor:
    """Return a clip of shape ``(1, 3, 8, 64, 64)``."""
    return torch.randn(1, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))


TORCHVISION: dict[str, tuple[dict[str, Any], Callable[[], Tensor], Callable[[nn.Module, Tensor], Any]]] = {
    "fcn_resnet50": ({}, image, segmented),
    "deeplabv3_mobilenet_v3_large": ({}, image, segmented),
    "lraspp_mobilenet_v3_large": ({}, image, segmented),
    "ssdlite320_mobilenet_v3_large": ({}, image, detected),
    "retinanet_resnet50_fpn": ({"min_size": 64, "max_size": 64}, image, detected),
    "fcos_resnet50_fpn": ({"min_size": 64, "max_size": 64}, image, detected),
    "fasterrcnn_mobilenet_v3_large_320_fpn": ({"min_size": 64, "max_size": 64}, image, detected),
    "maskrcnn_resnet50_fpn": ({"min_size": 64, "max_size": 64}, image, detected),
    "keypointrcnn_resnet50_fpn": ({"min_size": 64, "max_size": 64}, image, detected),
    "r3d_18": ({}, frames, plain),
    "mc3_18": ({}, frames, plain),
    "r2plus1d_18": ({}, frames, plain),
    "s3d": ({}, lambda: torch.randn(1, 3, 16, 224, 224, generator=torch.Generator().manual_seed(0)), plain),
}
"""Arguments, input and call of torchvision's networks for detection, segmentation and video."""


def torchvision_network(name: str) -> Made:
    """Return a network of torchvision with random weights."""
    import torchvision

    options, inputs, forward = TORCHVISION[name]
    model = (
        torchvision.models.get_model(name, weights=None, weights_backbone=None, **options)
        if forward is not plain
        else (torchvision.models.get_model(name, weights=None, **options))
    )
    return model.eval(), inputs(), forward


MAKERS: dict[str, tuple[Callable[[str], Made], tuple[str, ...]]] = {
    "torchvision": (torchvision_network, tuple(TORCHVISION)),
    "transformers": (transformers_architecture, tuple(TRANSFORMERS)),
    "timm": (timm_family, tuple(TIMM)),
}
NAMES = [f"{library}/{name}" for library, (_, names) in MAKERS.items() for name in names]


def make(name: str) -> Made:
    """Return the network ``library/name``; its weights depend on the name alone."""
    library, _, of_library = name.partition("/")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        return MAKERS[library][0](of_library)
