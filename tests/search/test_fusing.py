"""The command `fuse`: what it prints and writes, large weights outside, and files that are no models."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, external_data_helper, helper
from typer.testing import CliRunner

import search.fusing
from search.cli import app
from search.export.onnx_file import OnnxFileError, read, write
from spaces.errors import EquivalenceError, SecateursError
from tests.paths import REPOSITORY
from tests.spaces.fusion.onnx_zoo import PER_CHANNEL, ZOO, chain, model, node, value, weight

WRITTEN = ["in.onnx", "out.onnx"]


def invoke(*arguments: Any) -> Any:
    return CliRunner().invoke(app, ["fuse", *map(str, arguments)])


def save(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "in.onnx"
    onnx.save(proto, path)
    return path


def answer(path: Path, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": inputs})[0]
    return found


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize("name", ["three", "clips", "if", "loop", "function with slopes", "old file", "half precision"])
def test_a_model_is_merged_compared_and_written(tmp_path: Path, name: str) -> None:
    source = save(tmp_path, ZOO[name][0]())
    content = source.read_bytes()
    result = invoke(source, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0, result.exception
    assert source.read_bytes() == content
    assert names(tmp_path) == WRITTEN
    assert "nodes before" in result.output
    assert "outputs in ONNX Runtime" in result.output
    again = invoke(tmp_path / "out.onnx", "-o", tmp_path / "again.onnx")
    assert "chains merged: 0" in again.output


def test_what_it_prints(tmp_path: Path) -> None:
    source = save(tmp_path, chain("Relu", "LeakyRelu 0.5", "Clip zero six")())
    result = invoke(source, "-o", tmp_path / "out.onnx")
    assert f"{source}: 5 nodes before, 3 after; chains merged: 1" in result.output
    assert "graph: Relu_v1 (ReLU), LeakyRelu_v2 (LeakyReLU 0.5), Clip_v3 (Clip 0 to 6) -> Clip 0 to 6" in result.output
    assert "bit for bit the same" in result.output
    assert "x [2, 4, 5, 5]" in result.output
    literal = invoke(source, "-o", tmp_path / "literal.onnx", "--literal-types", "--shape", "x=1,4,5,5")
    assert "x [1, 4, 5, 5]" in literal.output
    assert literal.exit_code == 0


def outside(folder: Path, proto: onnx.ModelProto) -> Path:
    """Write a model whose weights lie beside it, one file each."""
    path = folder / "in.onnx"
    external_data_helper.convert_model_to_external_data(proto, all_tensors_to_one_file=False, size_threshold=0)
    onnx.save(proto, path)
    return path


def test_weights_outside_stay_outside(tmp_path: Path) -> None:
    expected = chain("PRelu slopes", "LeakyRelu 0.5")()
    (tmp_path / "from").mkdir()
    (tmp_path / "to").mkdir()
    source = outside(tmp_path / "from", chain("PRelu slopes", "LeakyRelu 0.5")())
    before = {entry.name: entry.read_bytes() for entry in source.parent.iterdir()}
    target = tmp_path / "to" / "out.onnx"
    for name in ("out.onnx.data", "out.onnx.1.data", "out.onnx.data"):
        result = invoke(source, "-o", target)
        assert result.exit_code == 0, result.exception
        assert names(target.parent) == ["out.onnx", name]
    assert {entry.name: entry.read_bytes() for entry in source.parent.iterdir()} == before
    onnx.save(expected, tmp_path / "whole.onnx")
    inputs = np.random.default_rng(0).normal(size=(2, 4, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(answer(target, inputs), answer(tmp_path / "whole.onnx", inputs), rtol=1e-5, atol=1e-5)
    source.parent.rename(tmp_path / "gone")
    assert answer(target, inputs).shape == (2, 4, 5, 5)


def test_another_file_beside_the_target_is_not_touched(tmp_path: Path) -> None:
    source = outside(tmp_path, chain("Relu", "Relu")())
    (tmp_path / "out.onnx.data").write_text("mine")
    assert invoke(source, "-o", tmp_path / "out.onnx").exit_code == 0
    assert (tmp_path / "out.onnx.data").read_text() == "mine"
    assert (tmp_path / "out.onnx.1.data").exists()


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_at_the_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def corrupt(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for index in range(0, len(content), 7):
        content[index] ^= 0xFF
    path.write_bytes(bytes(content))


def unknown_operator(path: Path) -> None:
    onnx.save(model([node("Relu", "x", "a"), node("NoSuchOperator", "a", "y")]), path)


def unknown_domain(path: Path) -> None:
    proto = model([node("Relu", "x", "a"), helper.make_node("Own", ["a"], ["y"], domain="com.example")])
    proto.opset_import.append(helper.make_opsetid("com.example", 1))
    onnx.save(proto, path)


def newer_than_known(path: Path) -> None:
    onnx.save(model([node("Relu", "x", "y")], opset=onnx.defs.onnx_opset_version() + 1), path)


def sparse(path: Path) -> None:
    proto = model([node("Relu", "x", "a"), node("Relu", "a", "y")])
    values = helper.make_tensor("dense", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [0])
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))
    onnx.save(proto, path)


def strings(path: Path) -> None:
    proto = model([node("Relu", "x", "a"), node("Relu", "a", "y"), node("Identity", "words", "same")])
    proto.graph.input.append(value("words", TensorProto.STRING, ["N"]))
    proto.graph.output.append(value("same", TensorProto.STRING, ["N"]))
    onnx.save(proto, path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truncated, "no ONNX model, or not a whole one"),
        (cut_at_the_end, "no ONNX model, or not a whole one"),
        (corrupt, "no ONNX model, or not a whole one"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("conv: 3x3\nrelu\n"), "no ONNX model, or not a whole one"),
        (lambda path: path.write_text("a"), "no ONNX model"),
        (lambda path: path.unlink(), "no such file"),
        (unknown_operator, "NoSuchOperator"),
        (unknown_domain, "ONNX Runtime .* can't load .*--no-compare"),
        (newer_than_known, "expected 11 to"),
        (sparse, "sparse weights"),
        (strings, "no random values are made"),
        (lambda path: onnx.save(model([node("Relu", "nowhere", "y")]), path), "no valid ONNX model"),
    ],
)
def test_a_bad_file_is_explained_and_nothing_is_written(tmp_path: Path, spoil: Any, message: str) -> None:
    source = save(tmp_path, chain("Relu", "Relu")())
    spoil(source)
    result = invoke(source, "-o", tmp_path / "out.onnx")
    assert isinstance(result.exception, SecateursError), result.output
    with pytest.raises(SecateursError, match=message):
        raise result.exception
    assert names(tmp_path) in ([], ["in.onnx"])


def test_the_command_ends_with_2_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_text("not a model")
    command = [sys.executable, "-m", "search", "fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert done.returncode == 2
    assert "no ONNX model" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert names(tmp_path) == ["in.onnx"]


def test_weights_that_are_missing_or_short_are_named(tmp_path: Path) -> None:
    source = outside(tmp_path, chain("PRelu slopes", "Relu")())
    data = tmp_path / "kernel"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(OnnxFileError, match="kernel should be in .* has 572 bytes; expected 576"):
        read(source)
    data.unlink()
    with pytest.raises(OnnxFileError, match="kernel"):
        read(source)
    assert invoke(source, "-o", tmp_path / "out.onnx").exit_code != 0
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_that_can_not_be_run_is_written_if_asked(tmp_path: Path) -> None:
    source = save(tmp_path, chain("Relu", "Relu")())
    unknown_domain(source)
    result = invoke(source, "-o", tmp_path / "out.onnx", "--no-compare")
    assert result.exit_code == 0, result.exception
    assert "not compared in ONNX Runtime" in result.output
    assert names(tmp_path) == WRITTEN


def test_wrong_arguments(tmp_path: Path) -> None:
    source = save(tmp_path, chain("Relu", "Relu")())
    assert "which stays as it is" in str(invoke(source, "-o", source).exception)
    assert "existing folder" in str(invoke(source, "-o", tmp_path / "nowhere" / "out.onnx").exception)
    assert "existing folder" in str(invoke(source, "-o", tmp_path).exception)
    assert "no such input; it has x" in str(invoke(source, "-o", tmp_path / "out.onnx", "--shape", "z=1").exception)
    assert invoke(source, "-o", tmp_path / "out.onnx", "--shape", "x=a").exit_code == 2
    assert invoke(source).exit_code == 2
    assert names(tmp_path) == ["in.onnx"]


def test_a_model_that_answers_otherwise_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path, chain("LeakyRelu 0.5", "Relu")())

    def wrong(read: Any, literal: bool) -> Any:
        report = honest(read, literal)
        read.graph.node(1).op_type = "Sigmoid"
        return report

    honest = search.fusing.fuse_onnx
    monkeypatch.setattr(search.fusing, "fuse_onnx", wrong)
    (tmp_path / "out.onnx").write_text("what was there")
    result = invoke(source, "-o", tmp_path / "out.onnx")
    assert isinstance(result.exception, EquivalenceError)
    assert "differ: by" in str(result.exception)
    assert (tmp_path / "out.onnx").read_text() == "what was there"
    assert names(tmp_path) == WRITTEN


def test_a_model_that_answers_at_random_is_not_compared(tmp_path: Path) -> None:
    noise = helper.make_node("RandomNormalLike", ["b"], ["noise"], name="noise")
    source = save(tmp_path, model([node("Relu", "x", "a"), node("Relu", "a", "b"), noise, node("Add", "b noise", "y")]))
    result = invoke(source, "-o", tmp_path / "out.onnx")
    assert "another answer each time" in str(result.exception)
    assert names(tmp_path) == ["in.onnx"]


def sized(folder: Path, tensors: int, numbers: int) -> Path:
    """Write a model with large weights outside, in a sparse file, and a chain of two PRelus."""
    data, weights = folder / "in.data", []
    with data.open("wb") as file:
        file.truncate(tensors * numbers * 4)
    for index in range(tensors):
        one = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[numbers])
        one.data_location = TensorProto.EXTERNAL
        for key, text in (("location", data.name), ("offset", index * numbers * 4), ("length", numbers * 4)):
            one.external_data.add(key=key, value=str(text))
        weights.append(one)
    sums = [node("ReduceMax", f"w{index}", f"s{index}", keepdims=0) for index in range(tensors)]
    added = [node("Sum", " ".join(["x", *(f"s{index}" for index in range(tensors))]), "v")]
    chained = [node("PRelu", "v slopes", "a"), node("PRelu", "a slopes", "y")]
    path = folder / "in.onnx"
    onnx.save(model([*sums, *added, *chained], [*weights, PER_CHANNEL]), path)
    return path


def peak() -> int:
    """Return the most resident memory this program has had, in bytes; `getrusage` would count its parent's too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def streamed(folder: Path, tensors: int, numbers: int, comparison: str) -> int:
    """Fuse in a process of its own, and return how much memory that took beyond what a tiny model takes."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pathlib import Path\n"
        "from tests.search.test_fusing import invoke, peak\n"
        "for folder in sys.argv[2:4]:\n"
        "    result = invoke(Path(folder) / 'in.onnx', '-o', Path(folder) / 'out.onnx', *sys.argv[4:])\n"
        "    assert result.exit_code == 0, result.exception\n"
        "    print(peak())\n"
    )
    (folder / "tiny").mkdir()
    (folder / "large").mkdir()
    sized(folder / "tiny", 2, 100)
    sized(folder / "large", tensors, numbers)
    command = [sys.executable, "-c", script, str(REPOSITORY), str(folder / "tiny"), str(folder / "large"), *comparison.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    tiny, large = map(int, done.stdout.split())
    assert (folder / "large" / "out.onnx").stat().st_size < 100_000
    assert (folder / "large" / "out.onnx.data").stat().st_size >= tensors * numbers * 4
    return large - tiny


def test_weights_are_streamed_and_not_loaded(tmp_path: Path) -> None:
    assert streamed(tmp_path, 8, 10_000_000, "--no-compare") < 40_000_000, "320 MB of weights were read into memory"


@pytest.mark.slow
def test_a_model_of_more_than_2_gib(tmp_path: Path) -> None:
    assert streamed(tmp_path, 10, 60_000_000, "--no-compare") < 100_000_000


def test_half_a_model_is_never_seen(tmp_path: Path) -> None:
    source = save(tmp_path, chain("Relu", "Relu")())
    (tmp_path / "out.onnx").write_text("what was there")

    def refuse(written: Path) -> None:
        assert written.name == "out.onnx"
        assert written.parent != tmp_path
        assert (tmp_path / "out.onnx").read_text() == "what was there"
        raise OnnxFileError("no")

    with pytest.raises(OnnxFileError, match="no"):
        write(read(source), tmp_path / "out.onnx", refuse)
    assert (tmp_path / "out.onnx").read_text() == "what was there"
    assert names(tmp_path) == WRITTEN


def test_slopes_may_lie_outside_too(tmp_path: Path) -> None:
    proto = model(
        [node("PRelu", "x slopes", "a"), node("PRelu", "a big", "y")], [PER_CHANNEL, weight("big", np.full((4, 5, 5), 0.5))]
    )
    result = invoke(outside(tmp_path, proto), "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0, result.exception
    assert "chains merged: 1" in result.output


def reshaping() -> onnx.ModelProto:
    """Return a model that runs only where its input ``rows`` is a 25th of the numbers in ``x``."""
    nodes = [
        node("Relu", "x", "a"),
        node("LeakyRelu", "a", "b", alpha=0.5),
        node("Unsqueeze", "rows zero", "row"),
        node("Concat", "row columns", "shape", axis=0),
        node("Reshape", "b shape", "y"),
        node("Where", "flag scale x", "chosen"),
    ]
    proto = model(nodes, [weight("zero", [0], np.int64), weight("columns", [25], np.int64)])
    proto.graph.input.append(value("rows", TensorProto.INT64, []))
    proto.graph.input.append(value("flag", TensorProto.BOOL, ["N", 1, 1, 1]))
    proto.graph.input.append(value("scale", TensorProto.FLOAT, ["N", 4, 5, 5]))
    del proto.graph.output[:]
    proto.graph.output.append(value("y", TensorProto.FLOAT, ["R", 25]))
    proto.graph.output.append(value("chosen"))
    return proto


def test_values_of_inputs_are_given_where_random_ones_do_not_do(tmp_path: Path) -> None:
    source, target = save(tmp_path, reshaping()), tmp_path / "out.onnx"
    without = main(source, target)
    assert without.returncode == 2
    assert "--value NAME=7" in without.stderr
    assert invoke(source, "-o", target, "--value", "rows=8").exit_code == 0
    # The length of a list is that of the dimension for all inputs.
    listed = invoke(source, "-o", target, "--value", "rows=12", "--value", "flag=[[[[true]]], [[[false]]], [[[true]]]]")
    assert listed.exit_code == 0, listed.exception
    assert "x [3, 4, 5, 5]" in listed.output
    filled = invoke(source, "-o", target, "--value", "rows=4", "--value", "scale=2", "--shape", "scale=1,4,5,5", *SMALL)
    assert filled.exit_code == 0, filled.exception
    assert "scale [1, 4, 5, 5]" in filled.output


SMALL = ("--shape", "x=1,4,5,5", "--shape", "flag=1,1,1,1")


def main(source: Path, target: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "search", "fuse", str(source), "-o", str(target), *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("column=8", "--value column: the model has no such input; it has x, rows, flag, scale"),
        ("rows=8.5", "--value rows: expected whole numbers for an input of type int64, got 8.5"),
        ("rows=true", "expected whole numbers"),
        ("rows=[8]", r"expected shape \[\], got \[1\]"),
        ("rows=9223372036854775808", "out of the range of int64|expected whole numbers"),
        ("flag=1", "--value flag: expected true or false for an input of type bool"),
        ("flag=[[[[true]]], [[[1]]]]", "expected true or false"),
        ("flag=[true]", r"expected shape \['N', 1, 1, 1\], got \[1\]"),
        ("scale=false", "expected numbers for an input of type float32"),
        ("scale=[[1, 2], [3]]", "rows are of one length"),
        ("rows=eight", "Invalid value|expected NAME=VALUE"),
        ("rows", "expected NAME=VALUE"),
        ('rows="8"', "expected NAME=VALUE"),
        ("rows=null", "expected NAME=VALUE"),
    ],
)
@pytest.mark.parametrize("compared", [(), ("--no-compare",)])
def test_values_that_do_not_fit_end_with_2_and_nothing_written(
    tmp_path: Path, written: str, message: str, compared: tuple[str, ...]
) -> None:
    source, target = save(tmp_path, reshaping()), tmp_path / "out.onnx"
    result = invoke(source, "-o", target, "--value", written, *compared)
    text = result.output if isinstance(result.exception, SystemExit) else str(result.exception)
    assert isinstance(result.exception, SecateursError) or result.exit_code == 2
    assert re.search(message, " ".join(text.replace("\u2502", " ").split()))
    assert names(tmp_path) == ["in.onnx"]


def test_slopes_without_a_number_are_left_as_they_are(tmp_path: Path) -> None:
    nodes = [node("Relu", "x", "a"), node("PRelu", "a none", "b"), node("PRelu", "b none", "y")]
    proto = model(nodes, [weight("none", np.zeros((0, 1, 1)))])
    for place in (proto.graph.input[0], proto.graph.output[0]):
        place.type.tensor_type.shape.dim[1].dim_value = 0
    result = invoke(save(tmp_path, proto), "-o", tmp_path / "out.onnx", "--shape", "x=2,0,5,5")
    assert result.exit_code == 0, result.exception
    assert "its slopes, of shape (0, 1, 1), are empty" in result.output


def test_slopes_are_not_expanded_where_a_file_would_grow(tmp_path: Path) -> None:
    nodes = [node("PRelu", "x channels", "a"), node("PRelu", "a places", "y")]
    wide = [weight("channels", np.full((4, 1, 1), 0.5)), weight("places", np.full((1, 5, 5), 0.25))]
    source = save(tmp_path, model(nodes, wide))
    result = invoke(source, "-o", tmp_path / "out.onnx")
    assert "would become 100 numbers, more than both and a node take" in result.output
    assert [len(entry.dims) for entry in onnx.load(tmp_path / "out.onnx").graph.initializer] == [3, 3]
    assert sum(np.prod(entry.dims) for entry in onnx.load(tmp_path / "out.onnx").graph.initializer) == 4 + 25


def test_fusing_loads_no_torch(tmp_path: Path) -> None:
    source = save(tmp_path, chain("PRelu slopes", "LeakyRelu 0.5", "Clip zero six")())
    code = (
        "import sys; from search.cli import app\n"
        f"app(['fuse', {str(source)!r}, '-o', {str(tmp_path / 'out.onnx')!r}], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0
    assert (tmp_path / "out.onnx").exists()
