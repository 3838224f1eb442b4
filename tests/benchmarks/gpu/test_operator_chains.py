"""Chains of operators as ONNX graphs, run by the CPU where it has them."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks.gpu.operator_chains import OPERATORS, REFERENCE, Chain, chains, input_of, model_of
from benchmarks.gpu.operator_times import ChainJob, reference

NORM = Chain("GroupNorm, exported", "float32", (2, 16, 4, 4), groups=4)


def test_a_norm_has_mean_zero_and_variance_one_within_its_groups() -> None:
    session = onnxruntime.InferenceSession(model_of(NORM, 1))
    weights = {
        initializer.name: onnx.numpy_helper.to_array(initializer)
        for initializer in onnx.load_from_string(model_of(NORM, 1)).graph.initializer
    }
    found = (session.run(None, {"x": input_of(NORM)})[0] - weights["shift"]) / weights["scale"]
    groups = found.reshape(2, 4, -1)
    np.testing.assert_allclose(groups.mean(2), 0, atol=1e-5)
    np.testing.assert_allclose(groups.var(2), 1, atol=1e-3)


def test_silu_in_one_operator_is_silu() -> None:
    found = list(ChainJob(Chain("QuickGelu", "float32", (1, 8, 4, 4)), "cpu").run())
    assert found[0].difference < 1e-6  # type: ignore[union-attr,operator]


def test_attention_in_one_operator_is_attention() -> None:
    chain = Chain("attention, contrib MultiHeadAttention", "float32", (2, 9, 32), heads=4, short=1, long=2)
    (found,) = ChainJob(chain, "cpu").run()
    assert found.difference < 1e-5  # type: ignore[union-attr,operator]


def test_a_norm_with_channels_last_has_the_reference_of_the_exported_one() -> None:
    last = replace(NORM, operator="contrib GroupNorm", shape=(2, 4, 4, 16))
    np.testing.assert_array_equal(reference(last), reference(NORM).transpose(0, 2, 3, 1))


@pytest.mark.parametrize("name", OPERATORS)
def test_a_chain_has_its_operator_as_often_as_asked(name: str) -> None:
    shape = (2, 9, 32) if name.startswith("attention") else (2, 8, 8, 8)
    one, four = (
        Counter(node.op_type for node in onnx.load_from_string(model_of(Chain(name, "float16", shape), n)).graph.node)
        for n in (1, 4)
    )
    assert four == Counter({kind: 4 * count for kind, count in one.items()})


def test_what_is_timed_has_a_reference_on_the_cpu() -> None:
    assert {chain.operator for chain in chains()} == set(OPERATORS)
    assert not any(REFERENCE.get(name, name).startswith(("contrib", "Quick")) for name in OPERATORS)


def test_an_operator_that_the_provider_lacks_is_refused() -> None:
    with pytest.raises(Exception, match="GroupNorm"):
        list(ChainJob(replace(NORM, operator="contrib GroupNorm", shape=(2, 4, 4, 16)), "cpu").run())
