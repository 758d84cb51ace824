"""Networks of torchvision, timm and transformers: listed by name, stored by name, built without weights or a connection."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from evaluators.onnx_export import ExportError
from evaluators.tasks.model_factory import ModelSettings, build_model
from search.export import load
from search.trust.canonical import canonical_origin
from search.trust.guard import GuardError, guarded
from tests.search.small_space import PointTask
from tests.search.trust.foreign import saved


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Turn every connection into a failure of the test."""

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a connection was asked for")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return


class Built(PointTask):
    """A task whose network comes from a factory in a configuration."""

    def __init__(self, factory: str, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.origin = {"model": {"factory": factory, "arguments": arguments, "checkpoint": None, "init_seed": 0}}
        self.network = build_model(ModelSettings(factory, arguments))

    def build(self) -> nn.Module:
        return self.network

    def stored(self) -> tuple[str, dict[str, Any]]:
        """Return factory and arguments as architecture.json has them."""
        model = canonical_origin(self.origin, self)["model"]
        return model["factory"], model["arguments"]


def origin(factory: str, **arguments: Any) -> dict[str, Any]:
    return {"model": {"factory": factory, "arguments": arguments}}


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


if importlib.util.find_spec("timm"):

    @pytest.mark.parametrize("factory", ["timm.create_model", "timm.models.mobilenetv3_small_050"])
    def test_a_network_of_timm_loads_without_weights(factory: str, tmp_path: Path) -> None:
        import timm

        network = timm.create_model("mobilenetv3_small_050", num_classes=5)
        named = {"model_name": "mobilenetv3_small_050"} if factory == "timm.create_model" else {}
        folder = saved(tmp_path, origin(factory, num_classes=5, pretrained=True, **named), network)
        inputs = torch.randn(1, 3, 64, 64)
        torch.testing.assert_close(load(folder)(inputs), network.eval()(inputs), rtol=0, atol=0)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"model_name": "hf-hub:somebody/evil"},
            {"model_name": "local-dir:/tmp"},
            {"model_name": "nothing"},
            {"model_name": 3},
            *({"model_name": "mobilenetv3_small_050", key: "x"} for key in ("checkpoint_path", "pretrained_cfg", "cache_dir")),
            {"model_name": "mobilenetv3_small_050", "pretrained_cfg_overlay": {"file": "evil.pth"}},
        ],
    )
    def test_what_timm_would_read_or_fetch_is_refused(arguments: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="timm"):
            load(saved(tmp_path, origin("timm.create_model", **arguments), nn.Linear(1, 1)))

    @pytest.mark.parametrize("factory", ["timm.create_model", "timm.models.create_model"])
    def test_a_network_of_timm_is_stored_by_its_name(factory: str) -> None:
        found = Built(factory, {"model_name": "mobilenetv3_small_050", "num_classes": 5, "cache_dir": None}).stored()
        assert found == ("timm.create_model", {"model_name": "mobilenetv3_small_050", "num_classes": 5})


if importlib.util.find_spec("transformers"):
    VIT = {
        "model_type": "vit", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 16, "patch_size": 8, "num_labels": 3,
    }  # fmt: skip
    AUTO = "transformers.AutoModelForImageClassification.from_config"

    def vit() -> nn.Module:
        import transformers

        return transformers.ViTForImageClassification(transformers.ViTConfig.from_dict(VIT))

    @pytest.mark.parametrize("in_a_file", [False, True])
    def test_a_network_of_transformers_loads_from_its_configuration(in_a_file: bool, tmp_path: Path) -> None:
        import json

        network = vit().eval()
        folder = saved(tmp_path, origin(AUTO, config="config.json" if in_a_file else VIT), network)
        (folder / "best" / "config.json").write_text(json.dumps(VIT))
        inputs = torch.randn(1, 3, 16, 16)
        torch.testing.assert_close(load(folder)(inputs).logits, network(inputs).logits, rtol=0, atol=0)

    @pytest.mark.parametrize(
        "change",
        [
            {"auto_map": {"AutoModelForImageClassification": "somebody/evil--x.Y"}},
            {"text_config": {"auto_map": {}}},
            {"attn_implementation": "somebody/kernel"},
            {"_attn_implementation": {"vision_config": "somebody/kernel:f"}},
            {"vision_config": {"deep": [{"attn_implementation": "a/b"}]}},
            {"use_kernels": True},
            {"quantization_config": {"quant_method": "x"}},
            {"use_pretrained_backbone": True},
            {"backbone_kwargs": {"checkpoint_path": "x"}},
            {"x": [{"backbone_kwargs": {"pretrained_cfg": {"file": "x"}}}]},
            {"backbone_config": {"model_type": "timm_backbone", "backbone": "hf-hub:somebody/evil"}},
            {"backbone": "microsoft/resnet-50"},
            {"model_type": "timm_wrapper", "architecture": "hf-hub:somebody/evil"},
            {"model_type": "timm_wrapper", "architecture": "resnet18", "model_args": {"checkpoint_path": "x"}},
            {"model_type": "nothing"},
            {"model_type": None},
            {"hidden_size": 2**40},
        ],
    )
    def test_what_transformers_would_fetch_or_run_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="config"):
            load(saved(tmp_path, origin(AUTO, config={**VIT, **change}), vit()))

    @pytest.mark.parametrize("config", ["../config.json", "/etc/passwd", "", "..", "missing.json", 3, None, []])
    def test_a_configuration_that_is_not_in_the_folder(config: Any, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises(ExportError, match="config"):
            load(saved(tmp_path, origin(AUTO, config=config), vit()))

    @pytest.mark.parametrize("extra", [{"trust_remote_code": True}, {"attn_implementation": "a/b"}])
    def test_arguments_beside_the_configuration_are_refused(extra: dict[str, Any], tmp_path: Path) -> None:
        with pytest.raises(ExportError, match="config alone"):
            load(saved(tmp_path, origin(AUTO, config=VIT, **extra), vit()))

    @pytest.mark.parametrize("name", ["ViTForImageClassification", "AutoModelForImageClassification"])
    def test_a_network_from_a_folder_is_stored_by_its_configuration(name: str, tmp_path: Path) -> None:
        network: Any = vit()
        network.save_pretrained(tmp_path / "pretrained")
        built = Built(f"transformers:{name}.from_pretrained", {"pretrained_model_name_or_path": str(tmp_path / "pretrained")})
        factory, arguments = built.stored()
        assert factory == AUTO
        assert str(tmp_path) not in str(arguments)
        folder = saved(tmp_path / "r", {"model": {"factory": factory, "arguments": arguments}}, built.network)
        inputs = torch.randn(1, 3, 16, 16)
        torch.testing.assert_close(load(folder)(inputs).logits, network.eval()(inputs).logits, rtol=0, atol=0)
