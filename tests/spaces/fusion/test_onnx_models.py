"""Merging in ONNX models: counts, outputs in ONNX Runtime and in the reference, what must stay, what is cleaned up."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper
from onnx.reference import ReferenceEvaluator

from spaces.fusion.onnx_models import fuse_onnx, nodes
from spaces.fusion.report import FusionReport
from tests.spaces.fusion.onnx_zoo import PER_CHANNEL, ZOO, branch, chain, model, node, value, weight

each = pytest.mark.parametrize("name", ZOO)


def fused(proto: ModelProto, literal: bool = False) -> tuple[ModelProto, FusionReport]:
    read = ir.serde.deserialize_model(proto)
    report = fuse_onnx(read, literal)
    written = ir.serde.serialize_model(read)
    onnx.checker.check_model(written, full_check=True)
    return written, report


def run(proto: ModelProto, inputs: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})


def inputs_of(proto: ModelProto, seed: int = 0) -> np.ndarray:
    dtype = helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type)
    return (np.random.default_rng(seed).normal(size=(3, 4, 5, 5)) * 3).astype(dtype)


def same(before: list[np.ndarray], after: list[np.ndarray], exact: bool) -> None:
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype
        tolerance = 0.0 if exact else 1e-2 if one.dtype == np.float16 else 2e-6
        atol = 0.0 if exact else tolerance * np.abs(one).max()
        np.testing.assert_allclose(other, one, rtol=tolerance, atol=atol)


@each
@pytest.mark.parametrize("literal", [False, True])
def test_models(name: str, literal: bool) -> None:
    build, removed = ZOO[name]
    before = build()
    untouched = before.SerializeToString()
    after, report = fused(before, literal)
    assert before.SerializeToString() == untouched
    # Two cases in which the patent's types keep a node, or a slope of 0.
    kept = {"becomes identity": -1, "identity to an output": -1, "mixed zeros": 1, "five": 0}.get(name, 0) if literal else 0
    assert report.removed == removed + kept, report.lines()
    for seed in (0, 1):
        same(run(before, inputs_of(before, seed)), run(after, inputs_of(before, seed)), report.exact)
    again, second = fused(after, literal)
    assert second.merges == ()
    assert nodes(ir.serde.deserialize_model(again)) == nodes(ir.serde.deserialize_model(after))


@pytest.mark.parametrize("name", ["four", "broadcast", "clips", "loop", "shared slope"])
def test_the_reference_implementation_agrees(name: str) -> None:
    before = ZOO[name][0]()
    after, report = fused(before)
    inputs = inputs_of(before)
    same(*(ReferenceEvaluator(proto).run(None, {"x": inputs}) for proto in (before, after)), report.exact)


@pytest.mark.parametrize(
    "kinds", [("Relu", "Clip - six"), ("Clip zero", "Relu"), ("Clip zero", "Clip - six"), ("Relu", "LeakyRelu 2")]
)
def test_infinities_are_answered_alike(kinds: tuple[str, str]) -> None:
    before = chain(*kinds)()
    before.graph.node.pop(0)
    before.graph.node.pop()
    before.graph.node[0].input[0] = "x"
    before.graph.node[-1].output[0] = "y"
    after, report = fused(before)
    assert report.removed == 1
    inputs = inputs_of(before)
    inputs[:, 0], inputs[:, 1], inputs[:, 2] = np.inf, -np.inf, 0.0
    same(run(before, inputs), run(after, inputs), exact=True)


@pytest.mark.parametrize("opset", [11, 13, 14, 15, 16, 18, 20, 21, 22, 23, 24, 25, 26])
def test_operator_sets(opset: int) -> None:
    before = model(
        [
            node("PRelu", "x slopes", "a"),
            node("LeakyRelu", "a", "b", alpha=0.5),
            node("Clip", "b low", "c"),
            node("Relu", "c", "y"),
        ],
        [PER_CHANNEL, weight("low", -1.0)],
        opset=opset,
    )
    after, report = fused(before)
    assert report.removed == 2
    assert after.opset_import == before.opset_import
    same(run(before, inputs_of(before)), run(after, inputs_of(before)), report.exact)


def test_slopes_follow_the_rule_and_not_the_plain_product() -> None:
    after, _ = fused(chain("PRelu slopes", "LeakyRelu 0.5")())
    (found,) = [onnx.numpy_helper.to_array(one) for one in after.graph.initializer if one.name.endswith("_slopes")]
    assert found.shape == (4, 1, 1)
    assert found.ravel().tolist() == [0.25, -0.5, 1.0, 0.125]


def test_what_is_read_elsewhere_stays_and_what_is_not_goes() -> None:
    after, _ = fused(ZOO["shared slope"][0]())
    assert "slopes" in {one.name for one in after.graph.initializer}
    after, _ = fused(chain("PRelu slopes", "PRelu one")())
    assert {"slopes", "one"}.isdisjoint(one.name for one in after.graph.initializer)
    assert "width" in {one.name for one in after.graph.initializer}, "an initializer that was never read is not ours to remove"
    after, _ = fused(ZOO["slope by constant nodes"][0]())
    assert [one.op_type for one in after.graph.node] == ["PRelu"]
    after, _ = fused(ZOO["loop"][0]())
    assert [one.name for one in after.graph.initializer] == ["count"]


def test_slopes_that_do_not_change_are_not_written_again() -> None:
    before = model([node("PRelu", "x slopes", "a"), node("LeakyRelu", "a", "y", alpha=1.0)], [PER_CHANNEL])
    after, report = fused(before)
    assert report.exact
    assert [one.name for one in after.graph.initializer] == ["slopes"]


def test_names_of_new_constants_are_free() -> None:
    taken = weight("LeakyRelu_y_slope", [1.0])
    before = model([node("PRelu", "x slopes", "a"), node("LeakyRelu", "a", "y", alpha=0.5)], [PER_CHANNEL, taken])
    before.graph.node[1].name = "LeakyRelu_y"
    after, _ = fused(before)
    names = [one.name for one in after.graph.initializer]
    assert len(names) == len(set(names))
    same(run(before, inputs_of(before)), run(after, inputs_of(before)), exact=False)


def test_a_value_that_only_a_subgraph_reads_is_kept() -> None:
    then = branch("then", [node("LeakyRelu", "a", "t", alpha=0.5)], "t")
    other = branch("else", [node("Relu", "b", "e")], "e")
    before = model(
        [
            node("Relu", "x", "a"),
            node("LeakyRelu", "a", "b", alpha=0.5),
            helper.make_node("If", ["yes"], ["y"], name="If_y", then_branch=then, else_branch=other),
        ],
        [weight("yes", True, np.bool_)],
    )
    after, report = fused(before)
    assert report.merges == ()
    text = " | ".join(report.lines())
    assert "read 2 times" in text
    assert "different graphs" in text
    same(run(before, inputs_of(before)), run(after, inputs_of(before)), exact=True)


def test_reasons() -> None:
    def reasons(name: str) -> str:
        return " | ".join(fused(ZOO[name][0]())[1].lines())

    assert "computed by Neg" in reasons("computed slope")
    assert "which the caller may set" in reasons("overridable")
    assert "set by the function's caller" in reasons("function")
    assert "function local.Act: " in reasons("function")
    assert "graph, then_branch of If If_chosen: " in reasons("if")
    assert "an output of the graph" in reasons("output in the middle")
    assert "normal numbers of float16" in reasons("half precision")
    assert "normal numbers of float32" in reasons("tiny")
    assert "bends" in reasons("bends")


def test_integers_are_left_alone() -> None:
    before = model([node("Relu", "x", "a"), node("Relu", "a", "y")], dtype=TensorProto.INT32)
    after, report = fused(before)
    assert report.merges == ()
    assert "INT32" in report.left[0].reason
    assert after.graph.node == before.graph.node


def test_where_types_are_unknown_products_must_be_normal_in_the_smallest() -> None:
    def act(first: float, second: float) -> FusionReport:
        inner = [node("LeakyRelu", "a", "c", alpha=first), node("LeakyRelu", "c", "d", alpha=second)]
        made = helper.make_function("local", "Act", ["a"], ["d"], inner, [helper.make_opsetid("", 17)])
        return fused(model([helper.make_node("Act", ["x"], ["y"], domain="local")], functions=[made]))[1]

    assert act(0.5, 0.5).removed == 1
    assert act(0.001, 0.001).removed == 0


def test_the_rest_of_a_model_is_left_as_it_was() -> None:
    before = chain("Relu", "Relu")()
    before.producer_name, before.doc_string = "somebody", "a model"
    before.graph.value_info.append(value("v0", shape=("N", 4, "h", "w")))
    before.metadata_props.add(key="license", value="ours")
    before.graph.node[0].doc_string = "the first"
    after, _ = fused(before)
    assert (after.producer_name, after.doc_string, after.ir_version) == ("somebody", "a model", before.ir_version)
    assert after.metadata_props == before.metadata_props
    assert after.graph.node[0] == before.graph.node[0]
    assert after.graph.input == before.graph.input
    assert after.graph.output == before.graph.output
    assert [one for one in after.graph.initializer if one.name == "kernel"] == [
        one for one in before.graph.initializer if one.name == "kernel"
    ]
    assert after.graph.name == before.graph.name


def test_a_prelu_is_not_made_where_its_type_is_unknown() -> None:
    inner = [node("LeakyRelu", "a", "c", alpha=-0.5), node("Relu", "c", "d")]
    made = helper.make_function("local", "Act", ["a"], ["d"], inner, [helper.make_opsetid("", 17)])
    after, report = fused(model([helper.make_node("Act", ["x"], ["y"], domain="local")], functions=[made]))
    assert report.merges == ()
    assert "isn't known" in report.left[0].reason
    assert len(after.functions[0].node) == 2
