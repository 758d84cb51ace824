"""Networks of torchvision: listed by name, stored by name, built without weights or a connection."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from evaluators.onnx_export import ExportError
from search.export import load
from search.trust.guard import GuardError, guarded
from tests.search.trust.foreign import saved
from tests.search.trust.listed import Built, no_network, origin  # noqa: F401 (a fixture)

GET = "torchvision.models.get_model"
NETWORKS = [
    ("torchvision.models.squeezenet1_1", {"num_classes": 5}),
    ("torchvision.models.squeezenet.squeezenet1_1", {"num_classes": 5}),
    (GET, {"name": "squeezenet1_1", "num_classes": 5}),
    (GET, {"name": "squeezenet1_1", "num_classes": 5, "weights": "DEFAULT", "weights_backbone": "DEFAULT"}),
    (GET, {"name": "squeezenet1_1", "num_classes": 5, "pretrained": True}),
]


@pytest.mark.parametrize(("factory", "arguments"), NETWORKS)
def test_a_network_of_torchvision_loads_without_weights(factory: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    network = models.squeezenet1_1(num_classes=5)
    found = load(saved(tmp_path, origin(factory, **arguments), network))
    inputs = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(found(inputs), network(inputs), rtol=0, atol=0)


def test_a_detector_of_torchvision_loads_without_its_backbone_s_weights(tmp_path: Path) -> None:
    network = models.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=3)
    factory = "torchvision.models.detection.ssdlite320_mobilenet_v3_large"
    assert not load(saved(tmp_path, origin(factory, num_classes=3), network)).training


@pytest.mark.parametrize("name", ["os.system", "SqueezeNet1_1", "", None, ["squeezenet1_1"]])
def test_a_name_that_torchvision_does_not_list(name: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="list_models"):
        load(saved(tmp_path, origin(GET, name=name), nn.Linear(1, 1)))


def test_a_network_that_can_not_be_checked_says_why(tmp_path: Path) -> None:
    network = models.regnet_x_400mf(num_classes=2)
    folder = saved(tmp_path, origin("torchvision.models.regnet_x_400mf", num_classes=2), network)
    with pytest.raises(
        ExportError, match=r"torchvision\.models\.regnet_x_400mf: .*meta device.*Cannot copy.*trust=.*model_factory"
    ):
        load(folder)
    inputs = torch.randn(1, 3, 64, 64)
    for options in ({"trust": ["torchvision.models"]}, {"model_factory": lambda: models.regnet_x_400mf(num_classes=2)}):
        torch.testing.assert_close(load(folder, **options)(inputs), network(inputs))  # type: ignore[arg-type]


def test_paths_of_one_network_are_stored_as_its_name() -> None:
    for factory in ("torchvision.models.squeezenet1_1", "torchvision.models.squeezenet:squeezenet1_1"):
        assert Built(factory, {"num_classes": 5}).stored() == (GET, {"name": "squeezenet1_1", "num_classes": 5})
    for factory in ("spaces.networks:digits_cnn", "tests.search.trust.foreign.digits_cnn"):
        assert Built(factory, {"width": 4}).stored() == ("spaces.networks.digits_cnn", {"width": 4})


def test_what_changes_with_weights_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """GoogLeNet transforms its inputs where it comes with weights: that is kept, the weights are not."""
    monkeypatch.setattr(models.GoogLeNet_Weights, "get_state_dict", lambda *_, **__: plain.state_dict())
    plain = models.googlenet(init_weights=False)
    kind, arguments = Built(GET, {"name": "googlenet", "weights": "DEFAULT"}).stored()
    assert kind == GET
    assert arguments == {"name": "googlenet", "transform_input": True, "aux_logits": False}


def test_a_factory_of_a_person_s_own_is_stored_as_it_is() -> None:
    assert Built("tests.search.trust.test_lists.mine", {}).stored() == ("tests.search.trust.test_lists.mine", {})


def mine() -> nn.Module:
    return nn.Linear(1, 1)


def test_the_second_line_of_defence() -> None:
    import os
    import pickle
    import subprocess

    attempts = (
        lambda: os.system("true"),
        lambda: subprocess.run(["true"]),
        lambda: pickle.loads(b"cos\nsystem\n."),
        lambda: socket.gethostbyname("localhost"),
    )
    for attempt in attempts:
        with guarded(), pytest.raises(GuardError, match="must not use"):
            attempt()
    assert subprocess.run(["true"]).returncode == 0
