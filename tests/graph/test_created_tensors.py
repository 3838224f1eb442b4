"""Floats that a graph creates from sizes and attributes, in 16 bits."""

from typing import Any

import numpy as np
import onnx
import pytest

from fewstep.graph.created_tensors import tensors_without_inputs
from fewstep.graph.files.io import to_model
from fewstep.graph.graph import OPSET, Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.float32 import to_float32
from fewstep.graph.passes.half import float32_tensors, to_half
from fewstep.graph.passes.rounding import make_runnable
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from tests.onnx_text import graph_of_text

IMAGE = "(float[batch, 4, 6] x) => (float[batch, 4, 6] y)"
SIZE = "shape = Shape(x) size = Gather(shape, last)"
X = np.random.default_rng(0).standard_normal((2, 4, 6), np.float32)
LAST = np.array(2)
TWO = np.array([4, 6])

SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "Bernoulli": (
        "zeros = Mul(x, zero) draws = Bernoulli<dtype=1, seed=3.0>(zeros) y = Add(x, draws)",
        {"zero": 0.0},
    ),
    "BlackmanWindow": (f"{SIZE} window = BlackmanWindow(size) y = Mul(x, window)", {"last": LAST}),
    "Cast": (f"{SIZE} number = Cast<to=1>(size) y = Mul(x, number)", {"last": LAST}),
    "Celu": ("y = Celu<alpha=0.5>(x)", {}),
    "ConstantOfShape": ("ones = ConstantOfShape<value=float[1] {3.0}>(both) y = Mul(x, ones)", {"both": TWO}),
    "DynamicQuantizeLinear": ("q, scale, zero = DynamicQuantizeLinear(x) y = Mul(x, scale)", {}),
    "EyeLike": ("flat = ConstantOfShape(both) eye = EyeLike<dtype=1>(flat) y = Add(x, eye)", {"both": TWO}),
    "HammingWindow": (f"{SIZE} window = HammingWindow<periodic=0>(size) y = Mul(x, window)", {"last": LAST}),
    "HannWindow": (f"{SIZE} window = HannWindow(size) y = Mul(x, window)", {"last": LAST}),
    "LayerNormalization": (
        "z, mean = LayerNormalization(x, scale, bias) y = Add(z, mean)",
        {"scale": np.ones(6), "bias": np.zeros(6)},
    ),
    "MelWeightMatrix": (
        "mel = MelWeightMatrix(bins, length, rate, low, high) y = Add(x, mel)",
        {
            "bins": np.array(6),
            "length": np.array(6),
            "rate": np.array(8000),
            "low": np.float32(0),
            "high": np.float32(4000),
        },
    ),
    "NonMaxSuppression": (
        "rows = Slice(x, start, stop, axis) scores = Slice(x, start, one, middle) "
        "few = Slice(scores, start, stop, axis) "
        "found = NonMaxSuppression(rows, few, two) number = Cast<to=1>(found) "
        "sum = ReduceSum<keepdims=0>(number) y = Add(x, sum)",
        {
            "start": np.array([0]),
            "stop": np.array([4]),
            "axis": np.array([2]),
            "one": np.array([1]),
            "middle": np.array([1]),
            "two": np.array([2]),
        },
    ),
    "RandomNormal": ("noise = RandomNormal<shape=[4, 6], seed=3.0>() y = Add(x, noise)", {}),
    "RandomNormalLike": ("noise = RandomNormalLike<dtype=1, seed=3.0>(x) y = Add(x, noise)", {}),
    "RandomUniform": ("noise = RandomUniform<shape=[4, 6], seed=3.0>() y = Add(x, noise)", {}),
    "RandomUniformLike": ("noise = RandomUniformLike<dtype=1, seed=3.0>(x) y = Add(x, noise)", {}),
    "Range": (
        f"{SIZE} number = Cast<to=1>(size) places = Range(zero, number, one) y = Mul(x, places)",
        {"last": LAST, "zero": 0.0, "one": 1.0},
    ),
    "Resize": (
        f"{SIZE} number = Cast<to=1>(size) same = Div(number, number) row = Unsqueeze(same, first) "
        'scales = Concat<axis=0>(row, row, row) y = Resize<mode="nearest">(x, , scales)',
        {"last": LAST, "first": np.array([0])},
    ),
    "TfIdfVectorizer": (
        "counts = TfIdfVectorizer<max_gram_length=1, max_skip_count=0, min_gram_length=1, mode='TF', "
        "ngram_counts=[0], ngram_indexes=[0, 1, 2, 3, 4, 5], pool_int64s=[0, 1, 2, 3, 4, 6]>(both) y = Add(x, counts)",
        {"both": TWO},
    ),
}
ELSEWHERE = {
    "Constant",  # a constant of the graph, once a file is read
    *("If", "ConcatFromSequence", "OptionalGetElement", "SequenceAt"),  # no pass looks inside, nor are there sequences
    *("QLinearConv", "QLinearMatMul"),  # quantized operations, which are refused
    "Upsample",  # not in opset 20
}


def graph_of(name: str) -> Graph:
    body, constants = SOURCES[name]
    return graph_of_text(f"{IMAGE} {{ {body} }}".replace("'", '"'), **constants)


def test_each_operation_of_the_opset_is_tried() -> None:
    """Operations whose float output has the type of no input, and those that take float32 only."""
    found = set[str]()
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain or schema.since_version > OPSET:
            continue
        newest = onnx.defs.get_schema(schema.name, OPSET)
        allowed = {
            constraint.type_param_str: tuple(constraint.allowed_type_strs) for constraint in newest.type_constraints
        }
        inputs = [port.type_str for port in newest.inputs]
        types = [allowed.get(text, (text,)) for text in inputs]
        made = [port for port in newest.outputs if port.type_str not in inputs]
        is_source = any("tensor(float)" in allowed.get(each.type_str, (each.type_str,)) for each in made)
        if is_source or any("tensor(float)" in each and "tensor(float16)" not in each for each in types):
            found.add(schema.name)
    assert found - ELSEWHERE == SOURCES.keys() and not ELSEWHERE & SOURCES.keys()


@pytest.mark.parametrize("name", SOURCES)
def test_a_graph_in_float16_makes_its_own_floats(name: str) -> None:
    graph = graph_of(name)
    half = to_half(graph, FLOAT16)
    onnx.checker.check_model(to_model(half), full_check=True)
    assert not list(float32_tensors(half))
    expected, found = (run(each, {"x": X})["y"] for each in (graph, half))
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("name", SOURCES)
def test_a_graph_in_bfloat16_makes_its_own_floats(name: str) -> None:
    graph = graph_of(name)
    half = to_half(graph, BFLOAT16)
    assert not list(float32_tensors(half))
    expected, found = (run(each, {"x": X})["y"] for each in (graph, make_runnable(half)))
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-2 * np.abs(expected).max())
    np.testing.assert_array_equal(run(to_float32(half), {"x": X})["y"].dtype, np.float32)


ROW = "(float[batch, n] x) => (float[batch, n] y)"
PLACES = "shape = Shape(x) size = Gather(shape, one) number = Cast<to=1>(size) places = Range(zero, number, step)"
NUMBERS = {"one": np.array(1), "zero": 0.0, "step": 1.0}


@pytest.mark.parametrize("half", [FLOAT16, BFLOAT16], ids=str)
def test_positions_are_exact_up_to_where_data_reads_them(half: np.dtype[Any]) -> None:
    """4095 has no exact value in either type: in 16 bits an angle would be 1 or 16 radians off."""
    graph = graph_of_text(f"{ROW} {{ {PLACES} wave = Sin(places) y = Add(x, wave) }}", **NUMBERS)
    assert tensors_without_inputs(graph) == {"number", "places", "wave"}
    found = run(make_runnable(to_half(graph, half)), {"x": np.zeros((1, 4096), np.float32)})["y"]
    np.testing.assert_allclose(found[0], np.sin(np.arange(4096)), rtol=0, atol=4e-3 if half == BFLOAT16 else 5e-4)


def test_the_lowest_number_of_a_made_mask_stays_finite() -> None:
    body = f"{PLACES} late = Greater(places, limit) number2 = Cast<to=1>(late) mask = Mul(number2, low)"
    graph = graph_of_text(f"{ROW} {{ {body} y = Add(x, mask) }}", **NUMBERS, limit=2.0, low=-3.4028235e38)
    found = run(to_half(graph, FLOAT16), {"x": np.zeros((1, 6), np.float32)})["y"]
    assert found.tolist() == [[0, 0, 0, -65504, -65504, -65504]]


def test_an_infinite_number_of_a_made_mask_stays_infinite() -> None:
    body = f"{PLACES} late = Greater(places, limit) mask = Where(late, low, places)"
    graph = graph_of_text(f"{ROW} {{ {body} y = Add(x, mask) }}", **NUMBERS, limit=2.0, low=-np.inf)
    found = run(to_half(graph, FLOAT16), {"x": np.zeros((1, 6), np.float32)})["y"]
    assert found.tolist() == [[0, 1, 2, -np.inf, -np.inf, -np.inf]]


def test_an_operation_that_may_run_in_int8_reads_positions_in_16_bits() -> None:
    body = f"{PLACES} flat = Reshape(places, rows) h = MatMul(flat, w) sum = ReduceMean(h, axes) y = Add(x, sum)"
    graph = graph_of_text(
        f"{ROW} {{ {body} }}".replace("ReduceMean(", "ReduceMean<keepdims=0>("),
        **NUMBERS,
        rows=np.array([-1, 16]),
        w=np.full((16, 16), 0.01),
        axes=np.array([0, 1]),
    )
    assert tensors_without_inputs(graph) == {"number", "places", "flat"}
    types = infer_types(to_half(graph, FLOAT16)).values
    assert (types["flat"].dtype, types["h"].dtype, types["places"].dtype) == (np.float16, np.float16, np.float32)
