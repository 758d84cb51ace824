"""Networks of transformers: listed by name, stored by name, built without weights or a connection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.onnx_export import ExportError
from search.export import load
from tests.search.trust.foreign import saved
from tests.search.trust.listed import Built, no_network, origin  # noqa: F401 (a fixture)

pytest.importorskip("transformers", reason="transformers is not installed: `uv sync --group zoo`")


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
