"""Loading a run folder that somebody else made: nothing but listed networks runs, and what is wrong is a clear error."""

from __future__ import annotations

import json
import os
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from evaluators.onnx_export import ExportError
from search.export import load
from search.trust.errors import UntrustedError
from spaces.networks import digits_cnn, resnet20
from tests.search.trust.foreign import ORIGIN, edit, pruned, saved


def own() -> nn.Module:
    return digits_cnn(width=4)


def with_factory(path: Any, **arguments: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data["task"] = {"model": {"factory": path, "arguments": arguments}}

    return change


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that appears once the code of a module of a person's own ran."""
    mark = tmp_path / "RAN"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "__init__.py").write_text("")
    (tmp_path / "theirs" / "nets.py").write_text(
        f"import os\nfrom os import system\nfrom spaces.networks import digits_cnn\nopen({str(mark)!r}, 'w').close()\n"
        "def net(**arguments): return digits_cnn(**arguments)\nclass Maker:\n    make = staticmethod(net)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield mark  # type: ignore[misc]
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "os:system",
        "posix.system",
        "torch.os.system",
        "torch:os.system",
        "torch.hub.load",
        "torch.load",
        "spaces.networks.torch.os.system",
        "spaces.networks:nn.Module",
        "spaces.networks.nn",
        "spaces.networks.initialize",
        "spaces.networks._vgg_features",
        "spaces.networks.SmallResNet",
        "torchvision.models.os.system",
        "torchvision.models:resnet.load_state_dict_from_url",
        "torchvision.models.resnet.load_state_dict_from_url",
        "torchvision.models.other.resnet18",
        "timm.models.load_checkpoint",
        "timm.models.resnet.load_checkpoint",
        "transformers.AutoModelForImageClassification.from_pretrained",
        "transformers.AutoConfig.from_pretrained",
        "transformers.pipeline",
        "search.export.load",
        "evaluators.tasks.model_factory.build_model",
        "theirs.nets.net",
        "subprocess.check_output",
        "builtins.eval",
    ],
)
def test_what_is_on_no_list_is_refused_before_it_is_imported(path: str, tmp_path: Path, package: Path) -> None:
    folder = edit(pruned(tmp_path / "r"), with_factory(path, command=f"touch {package}"))
    with pytest.raises(UntrustedError, match=r"trust=\[.*model_factory=") as refused:
        load(folder)
    assert path in str(refused.value)
    assert not package.exists()
    assert "theirs.nets" not in sys.modules


@pytest.mark.parametrize(
    "path", [None, 3, [], "", "x", "a..b", "a b.c", "a.b;c", "spaces.networks.digits_cnn.__call__", "a." * 900]
)
def test_a_factory_that_is_no_import_path(path: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="expected an import path"):
        load(edit(pruned(tmp_path), with_factory(path)))


@pytest.mark.parametrize("trust", [["theirs"], ["theirs.nets"], ["theirs.nets.net"], "theirs"])
def test_a_trusted_factory_is_called(trust: Any, tmp_path: Path, package: Path) -> None:
    folder = edit(pruned(tmp_path / "r"), with_factory("theirs.nets.net", width=4))
    expected, found = load(pruned(tmp_path / "s")), load(folder, trust=trust)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor)


@pytest.mark.parametrize("trust", [["their"], ["theirs.net"], ["heirs"], ["nets"], ["other"], []])
def test_trust_is_by_whole_components(trust: list[str], tmp_path: Path, package: Path) -> None:
    with pytest.raises(UntrustedError):
        load(edit(pruned(tmp_path / "r"), with_factory("theirs.nets.net", width=4)), trust=trust)
    assert not package.exists()


@pytest.mark.parametrize("path", ["theirs.nets:os.system", "theirs.nets.system", "theirs.nets:system", "theirs.nets:os"])
def test_what_a_trusted_module_imports_is_not_trusted_with_it(path: str, tmp_path: Path, package: Path) -> None:
    mark = tmp_path / "COMMAND"
    with pytest.raises(ExportError):
        load(edit(pruned(tmp_path / "r"), with_factory(path, command=f"touch {mark}")), trust=["theirs"])
    assert not mark.exists()


@pytest.mark.parametrize("trust", [[""], ["a b"], [3], ["theirs."], ["*"]])
def test_trust_that_is_no_dotted_path(trust: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="trust: expected dotted paths"):
        load(pruned(tmp_path), trust=trust)


def test_a_task_class_needs_trust_and_a_shipped_one_the_factory(tmp_path: Path) -> None:
    def task(path: str) -> Callable[[dict[str, Any]], Any]:
        return lambda data: data.update(task={"class": path, "arguments": {}})

    with pytest.raises(UntrustedError, match=r"theirs:Task.*trust=\['theirs'\].*model_factory"):
        load(edit(pruned(tmp_path), task("theirs:Task")))
    for path in ("evaluators.loader_task:LoaderTask", "evaluators.tasks.loader_task.LoaderTask"):
        with pytest.raises(UntrustedError, match=r"evaluators\.tasks\.loader_task:LoaderTask.*; pass model_factory"):
            load(edit(pruned(tmp_path), task(path)))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 4, "classes": 11}, "do not fit"),
        ({"width": 10**9}, "expected a number"),
        ({"width": 2**20}, "would take|do not fit"),
        ({"unknown": 1}, "meta device"),
        ({"width": "4"}, "meta device"),
        ({"width": -4}, "meta device|do not fit"),
    ],
)
def test_another_network_is_refused_before_memory_is_taken(arguments: dict[str, Any], words: str, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(ExportError, match=words):
        load(edit(pruned(tmp_path), with_factory("spaces.networks.digits_cnn", **arguments)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_network_of_endless_layers_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import spaces.networks

    def endless(width: int = 1) -> nn.Module:
        model = nn.Sequential()
        while True:
            model.append(nn.Identity())

    monkeypatch.setattr(spaces.networks, "digits_cnn", endless)
    with pytest.raises(ExportError, match="more than .* modules"):
        load(edit(pruned(tmp_path), with_factory("spaces.networks.digits_cnn")))


@pytest.mark.parametrize(
    "content",
    [b"", b" ", b"{", b"null", b"[]", b"3", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"format": 1}', b'{"format": true}',
     b'{"format": 1, "transformations": {}}', b'{"format": 1, "transformations": [3]}',
     b'{"format": 1, "transformations": [{"kind": ["sequence"]}]}', b'{"format": NaN}', b'{"format": 1e999}',
     b'{"format": 1, "x": "\\ud800"}', b'{"a":' * 70 + b"1" + b"}" * 70],
)  # fmt: skip
def test_an_architecture_that_is_damaged(content: bytes, tmp_path: Path) -> None:
    (pruned(tmp_path) / "best" / "architecture.json").write_bytes(content)
    for options in ({}, {"model_factory": own}):
        with pytest.raises(ExportError, match=r"architecture\.json"):
            load(tmp_path, **options)  # type: ignore[arg-type]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    path = pruned(tmp_path) / "best" / "weights.safetensors"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ExportError, match="regular file"):
        load(tmp_path)


@pytest.mark.parametrize("cut", [0, 7, 8, 100, -1])
def test_weights_that_are_cut(cut: int, tmp_path: Path) -> None:
    path = pruned(tmp_path) / "best" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ExportError, match="damaged"):
        load(tmp_path)


@pytest.mark.parametrize(
    "entry", [3, {}, {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}, {"dtype": "X", "shape": [1]}]
)
def test_weights_with_a_wrong_header(entry: Any, tmp_path: Path) -> None:
    header = json.dumps({"x": entry}).encode()
    (pruned(tmp_path) / "best" / "weights.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    with pytest.raises(ExportError, match=r"weights\.safetensors"):
        load(tmp_path)


@pytest.mark.parametrize("huge", [2**63, 2**40])
def test_weights_whose_header_claims_to_be_huge(huge: int, tmp_path: Path) -> None:
    (pruned(tmp_path) / "best" / "weights.safetensors").write_bytes(struct.pack("<Q", huge) + b"{}")
    with pytest.raises(ExportError, match=r"weights\.safetensors"):
        load(tmp_path)


def cut(change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda data: change(data["transformations"][0])


@pytest.mark.parametrize(
    "change",
    [
        cut(lambda t: t.pop("kept")),
        cut(lambda t: t.update(kept=[])),
        cut(lambda t: t["kept"].update({"unknown.weight": {"0": [0]}})),
        cut(lambda t: t["kept"].update({"features.0.weight": {"9": [0]}})),
        cut(lambda t: t["kept"].update({"features.0.weight": {"-1": [0]}})),
        cut(lambda t: t["kept"].update({"features.0.weight": {"x": [0]}})),
        *(
            cut(lambda t, bad=bad: t["kept"].update({"features.0.weight": {"0": bad}}))  # type: ignore[misc]
            for bad in ([-1, 0], [10**9], [10**30], [0, 0], [1, 0], ["a"], None, 3, [], [0.5], [True], [[0]], [None], {})
        ),
        cut(lambda t: t.pop("attributes")),
        cut(lambda t: t["attributes"].update({"unknown": {"in_channels": 1}})),
        *(
            cut(lambda t, bad=bad: t["attributes"].update({"features.0": bad}))  # type: ignore[misc]
            for bad in (
                {"forward": 1}, {"training": 1}, {"_parameters": 1}, {"out_channels": 10**6}, {"out_channels": 0},
                {"out_channels": "os"}, {"out_channels": True}, {"kernel_size": 3}, {"kernel_size": [3]}, {"bias": 1}, [], 3,
            )
        ),
    ],
)  # fmt: skip
def test_a_cut_that_the_network_does_not_have(change: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    folder = edit(pruned(tmp_path), change)
    for options in ({}, {"model_factory": own}):
        with pytest.raises(ExportError, match="slice_channels|do not fit"):
            load(folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "sequence"},
        {"kind": "sequence", "steps": 3},
        {"kind": "quantize"},
        {"kind": "quantize", "folds": [["features.0", "features.2"]], "layers": {}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [["x", "y"]], "layers": {}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [3], "layers": {}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {"features.1": [8, 8]}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {"features.0": [80, 8]}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {"features.0": ["8", 8]}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {"features.0": [8]}, "additions": {}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {"features.0": [8, 8]}, "additions": {"no.add": 8}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {}, "additions": {"add": 10**9}, "learned": False},
        {"kind": "quantize", "folds": [], "layers": {}, "additions": {}, "learned": "yes"},
        {"kind": "replace_activations"},
        {"kind": "replace_activations", "modules": {"": {"type": "ReLU", "inplace": False}}},
        {"kind": "replace_activations", "modules": {"new": {"type": "ReLU", "inplace": False}}},
        {"kind": "replace_activations", "modules": {"features.2": {"type": "os.system", "inplace": False}}},
        {"kind": "replace_activations", "modules": {"features.2": {"type": "PReLU", "inplace": False, "parameters": 10**12}}},
        {"kind": "replace_activations", "modules": {"features.2": {"type": "LeakyReLU", "inplace": False, "slope": "x"}}},
        {"kind": "replace_activations", "modules": {"features.2": {"type": "Clip", "inplace": 3, "low": 0, "high": 1}}},
        {"kind": "replace_activations", "modules": {"features.2": 3}},
        {"kind": "merge_activations", "steps": [3]},
        {"kind": "merge_activations", "steps": [{"nodes": ["x"], "anchor": 0, "module": "m", "type": "ReLU"}]},
    ],
)  # fmt: skip
def test_other_records_that_do_not_fit(record: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        load(edit(pruned(tmp_path), lambda data: data["transformations"].append(record)))


@pytest.mark.parametrize("name", ['x"); open("{mark}", "w"); ("', "features", "a b", "", "class", 3])
def test_a_name_in_a_traced_network_is_no_code(name: Any, tmp_path: Path) -> None:
    """torch.fx writes the names of modules into source code, which it executes."""
    mark = tmp_path / "RAN"
    name = name.replace("{mark}", str(mark).replace(".", "")) if isinstance(name, str) else name
    step = {"nodes": ["features_2"], "anchor": 0, "module": name, "type": "ReLU", "inplace": False}
    folder = saved(tmp_path / "r", ORIGIN, digits_cnn(width=4))
    edit(folder, lambda data: data.update(transformations=[{"kind": "merge_activations", "steps": [step]}]))
    with pytest.raises(ExportError, match="merge_activations: module"):
        load(folder)
    assert not mark.exists()


def test_the_network_of_a_folder_that_was_left_alone_is_the_same(tmp_path: Path) -> None:
    folder = saved(tmp_path, {"model": {"factory": "spaces.networks:resnet20", "arguments": {"width": 4}}}, resnet20(width=4))
    batch = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert load(folder)(batch).shape == (2, 10)


def test_merged_activations_are_rebuilt_on_the_meta_device(tmp_path: Path) -> None:
    network = digits_cnn(width=4)
    step = {"nodes": ["features_2"], "anchor": 0, "module": "merged", "type": "LeakyReLU", "inplace": False, "slope": 0.5}
    folder = saved(tmp_path, ORIGIN, network)
    edit(folder, lambda data: data.update(transformations=[{"kind": "merge_activations", "steps": [step]}]))
    network.features[2] = nn.LeakyReLU(0.5)
    inputs = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(load(folder)(inputs), network(inputs), rtol=0, atol=0)
