"""Scales of channels that QuantizeLinear takes, in the place of a product ahead of it."""

from collections import Counter

import numpy as np
import pytest

from fewstep.calibration.lowering import channel_forms
from fewstep.calibration.lowering.encoding import even_of
from fewstep.calibration.lowering.quantize import lower
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.graph.graph import GROUP, Graph
from fewstep.graph.session import open_session
from tests.calibration.lowering.bodies.uneven_body import given, layer, products, seen


def both(kind: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, Graph]:
    """The lowered layer, and the same with the product apart."""
    prepared = layer(kind)
    ranges = seen(prepared, given(prepared), groups=groups)
    joined = lower(prepared, ranges, CPU_X86).graph
    monkeypatch.setattr(channel_forms, "_quantized", lambda *_: ())
    return joined, lower(prepared, ranges, CPU_X86).graph


@pytest.mark.parametrize("groups", [1, 3])
def test_the_same_codes_without_a_product(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multipliers are powers of two: neither way rounds."""
    joined, apart = both("Conv", groups, monkeypatch)
    tables = Counter(Gather=1, Reshape=1) if groups > 1 else Counter()  # a row of one tensor is not split
    before, after = Counter(apart.ops()), Counter(joined.ops())
    assert before - after == Counter(Mul=1) and after - before - Counter(Split=1) == tables
    (written,) = (node for node in joined.nodes if node.op == "QuantizeLinear")
    assert written.inputs[0] == "a" and written.attributes == {"axis": 1}
    for group in range(groups):
        fed = given(joined) | ({GROUP: np.array([group])} if groups > 1 else {})
        code = f"int8({even_of('a')})"
        found, expected = (open_session(graph, [code])(fed) for graph in (joined, apart))
        for name in (code, "output"):
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_product_of_tokens_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their channels are last, where one number has a scale and the next another."""
    joined, apart = both("MatMul", 1, monkeypatch)
    assert joined.ops() == apart.ops() and products(joined) == Counter(["a"])
