"""Small ONNX models whose activations are connected, built node by node, and how many activations fewer they should have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def node(kind: str, inputs: str, output: str, **attributes: Any) -> NodeProto:
    """Return a node; inputs are written as one text, ``-`` for one that is left out."""
    names = ["" if name == "-" else name for name in inputs.split()]
    return helper.make_node(kind, names, [output], name=f"{kind}_{output}", **attributes)


def weight(name: str, values: Any, dtype: type = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def value(name: str, dtype: int = FLOAT, shape: Sequence[Any] | None = ("N", 4, 5, 5)) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, shape)


def graph(
    nodes: Sequence[NodeProto], weights: Sequence[TensorProto] = (), outputs: str = "y", dtype: int = FLOAT
) -> GraphProto:
    return helper.make_graph(
        nodes, "main", [value("x", dtype)], [value(name, dtype) for name in outputs.split()], list(weights)
    )


def model(
    nodes: Sequence[NodeProto] | GraphProto,
    weights: Sequence[TensorProto] = (),
    outputs: str = "y",
    opset: int = 17,
    dtype: int = FLOAT,
    functions: Sequence[onnx.FunctionProto] = (),
) -> ModelProto:
    made = nodes if isinstance(nodes, GraphProto) else graph(nodes, weights, outputs, dtype)
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid("local", 1)] if functions else [])]
    return helper.make_model(made, opset_imports=imports, ir_version=10, functions=list(functions))


PER_CHANNEL = weight("slopes", np.array([0.5, -0.5, 2.0, 0.25]).reshape(4, 1, 1))
ALONG_WIDTH = weight("width", [0.5, 0.25, -1.0, 1.0, 2.0])


def branch(name: str, nodes: Sequence[NodeProto], output: str) -> GraphProto:
    return helper.make_graph(list(nodes), name, [], [value(output)])


def conditional() -> ModelProto:
    """Chains of two in both branches of an If; the value before it is read from inside and must stay."""
    then = branch("then", [node("Relu", "outer", "t1"), node("LeakyRelu", "t1", "t2", alpha=0.5)], "t2")
    other = branch("else", [node("LeakyRelu", "x", "e1", alpha=0.5), node("LeakyRelu", "e1", "e2", alpha=0.5)], "e2")
    return model(
        [
            node("ReduceSum", "x", "sum", keepdims=0),
            node("Greater", "sum zero", "condition"),
            node("LeakyRelu", "x", "outer", alpha=0.5),
            helper.make_node("If", ["condition"], ["chosen"], name="If_chosen", then_branch=then, else_branch=other),
            node("Relu", "chosen", "y"),
        ],
        [weight("zero", 0.0)],
    )


def loop() -> ModelProto:
    """A chain of three in the body of a Loop, with a slope of the graph around it."""
    body = helper.make_graph(
        [
            node("PRelu", "state slopes", "b1"),
            node("LeakyRelu", "b1", "b2", alpha=-0.5),
            node("PRelu", "b2 slopes", "b3"),
            node("Identity", "going", "goes_on"),
        ],
        "body",
        [value("step", TensorProto.INT64, []), value("going", TensorProto.BOOL, []), value("state")],
        [value("goes_on", TensorProto.BOOL, []), value("b3")],
    )
    nodes = [helper.make_node("Loop", ["count", "", "x"], ["y"], name="Loop_y", body=body)]
    return model(nodes, [weight("count", 3, np.int64), PER_CHANNEL])


def function() -> ModelProto:
    """A chain of two and one with a slope of the caller's, in a function that is called twice."""
    leaky = helper.make_node("LeakyRelu", ["g"], ["h"], name="by_caller")
    attribute = leaky.attribute.add()
    attribute.name, attribute.ref_attr_name, attribute.type = "alpha", "slope", onnx.AttributeProto.FLOAT
    made = helper.make_function(
        "local",
        "Act",
        ["a"],
        ["h"],
        [
            node("LeakyRelu", "a", "c", alpha=0.5),
            node("LeakyRelu", "c", "d", alpha=0.5),
            node("Sigmoid", "d", "g"),
            leaky,
        ],
        [helper.make_opsetid("", 17)],
        ["slope"],
    )
    calls = [
        helper.make_node("Act", ["x"], ["m"], domain="local", slope=0.1),
        helper.make_node("Act", ["m"], ["y"], domain="local", slope=0.2),
    ]
    return model(calls, functions=[made])


def function_with_slopes() -> ModelProto:
    """PRelus in a function, which has Constant nodes for weights."""
    made = helper.make_function(
        "local",
        "Act",
        ["a"],
        ["d"],
        [
            node("Constant", "", "s", value=PER_CHANNEL),
            node("PRelu", "a s", "c"),
            node("PRelu", "c s", "d"),
        ],
        [helper.make_opsetid("", 17)],
    )
    return model([helper.make_node("Act", ["x"], ["y"], domain="local")], functions=[made])


def overridable() -> ModelProto:
    """A slope that is also an input: the caller may set it."""
    made = graph([node("PRelu", "x slopes", "a"), node("PRelu", "a slopes", "y")], [PER_CHANNEL])
    made.input.append(value("slopes", shape=(4, 1, 1)))
    return model(made)


def old_file() -> ModelProto:
    """An IR version in which an initializer must be an input as well: new slopes become Constant nodes."""
    made = model([node("LeakyRelu", "x", "a", alpha=-0.5), node("Relu", "a", "y")])
    made.ir_version = 3
    return made


def halves() -> ModelProto:
    """Half precision: one product is a normal number, the other isn't."""
    slopes = weight("slopes", np.full((4, 1, 1), 0.5), np.float16)
    nodes = [
        node("PRelu", "x slopes", "a"),
        node("PRelu", "a slopes", "b"),
        node("Sigmoid", "b", "c"),
        node("LeakyRelu", "c", "d", alpha=0.001),
        node("LeakyRelu", "d", "y", alpha=0.001),
    ]
    return model(nodes, [slopes], dtype=TensorProto.FLOAT16)


def chain(*kinds: str) -> Callable[[], ModelProto]:
    """Return a model of activations one after the other, behind and before a convolution."""

    def build() -> ModelProto:
        rng = np.random.default_rng(0)
        nodes = [node("Conv", "x kernel", "v0", pads=[1, 1, 1, 1])]
        for index, kind in enumerate(kinds):
            name, _, rest = kind.partition(" ")
            extra = {"alpha": float(rest)} if name == "LeakyRelu" and rest else {}
            inputs = f"v{index}" + (f" {rest}" if name != "LeakyRelu" else "")
            nodes.append(node(name, inputs, f"v{index + 1}", **extra))
        nodes.append(node("Conv", f"v{len(kinds)} kernel", "y", pads=[1, 1, 1, 1]))
        bounds = [weight("zero", 0.0), weight("six", 6.0), weight("low", -1.0), weight("one", [0.5])]
        return model(nodes, [weight("kernel", rng.normal(size=(4, 4, 3, 3))), PER_CHANNEL, ALONG_WIDTH, *bounds])

    return build


ZOO: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "two": (chain("Relu", "LeakyRelu 0.1"), 1),
    "default slope": (chain("LeakyRelu", "LeakyRelu"), 1),
    "three": (chain("LeakyRelu 0.5", "PRelu slopes", "LeakyRelu 0.5"), 2),
    "four": (chain("PRelu slopes", "PRelu one", "LeakyRelu -0.25", "PRelu slopes"), 3),
    "five": (chain("LeakyRelu 0.5", "LeakyRelu 2", "Identity", "Relu", "Clip zero six"), 3),
    "negative": (chain("LeakyRelu -0.5", "LeakyRelu 0.5"), 1),
    "becomes identity": (chain("LeakyRelu 0.5", "LeakyRelu 2"), 2),
    "broadcast": (chain("PRelu slopes", "PRelu width"), 1),
    "clips": (chain("Clip low six", "Clip zero", "Clip - six"), 2),
    "relu and clip": (chain("Relu", "Clip - six", "LeakyRelu 0.1"), 2),
    "leaky and clip": (chain("LeakyRelu 0.1", "Clip zero six"), 1),
    "identity": (chain("Relu", "Identity"), 0),
    "other activations": (chain("Relu", "Sigmoid", "Elu", "Relu", "HardSwish"), 0),
    "mixed zeros": (chain("PRelu slopes", "Relu"), 0),
    "bends": (chain("Clip low six", "LeakyRelu 0.1"), 0),
    "tiny": (chain("LeakyRelu 1e-30", "LeakyRelu 1e-30"), 0),
    "bound by constant node": (
        lambda: model(
            [
                node("Constant", "", "low", value_float=-1.0),
                node("Constant", "", "high", value=weight("v", 2.0)),
                node("Clip", "x low high", "a"),
                node("Relu", "a", "y"),
            ]
        ),
        1,
    ),
    "slope by constant nodes": (
        lambda: model(
            [
                node("Constant", "", "s", value_floats=[0.5]),
                node("Identity", "s", "same"),
                node("PRelu", "x same", "a"),
                node("PRelu", "a s", "y"),
            ]
        ),
        1,
    ),
    "computed slope": (
        lambda: model([node("Neg", "slopes", "s"), node("PRelu", "x s", "a"), node("Relu", "a", "y")], [PER_CHANNEL]),
        0,
    ),
    "shared slope": (
        lambda: model(
            [
                node("PRelu", "x slopes", "a"),
                node("PRelu", "a slopes", "b"),
                node("PRelu", "x slopes", "c"),
                node("Mul", "c slopes", "d"),
                node("Add", "b d", "y"),
            ],
            [PER_CHANNEL],
        ),
        1,
    ),
    "branches": (
        lambda: model(
            [
                node("LeakyRelu", "x", "a", alpha=0.5),
                node("LeakyRelu", "a", "b", alpha=0.5),
                node("Relu", "x", "c"),
                node("Relu", "c", "d"),
                node("Add", "b d", "y"),
            ]
        ),
        2,
    ),
    "read twice": (
        lambda: model([node("Relu", "x", "a"), node("LeakyRelu", "a", "b", alpha=0.5), node("Add", "a b", "y")]),
        0,
    ),
    "output in the middle": (
        lambda: model([node("Relu", "x", "a"), node("LeakyRelu", "a", "b", alpha=0.5), node("Relu", "b", "y")], outputs="a y"),
        1,
    ),
    "identity to an output": (
        lambda: model([node("LeakyRelu", "x", "a", alpha=0.5), node("LeakyRelu", "a", "y", alpha=2.0)]),
        2,
    ),
    "if": (conditional, 2),
    "loop": (loop, 2),
    "function": (function, 1),
    "function with slopes": (function_with_slopes, 1),
    "overridable": (overridable, 0),
    "old file": (old_file, 1),
    "half precision": (halves, 1),
}
