"""Shapings in ONNX are bitwise those of the executor's numpy, for samples of any size."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pytest

from fewstep.graph.builder import Builder
from fewstep.graph.files import io
from fewstep.graph.graph import BATCH, Node, Value
from fewstep.graph.shaping import check_shaping, lay_shaping
from fewstep.plans import shaping
from fewstep.plans.shaping import Clip, GuideChannels, GuideFrames, MatchNorm, Project, Rescale, Shaping, Threshold
from tests.refusals import refuses

SHAPES = [(5,), (1, 9), (2, 8, 8), (1, 11, 13), (1, 28, 28), (3, 17, 19), (3, 32, 32)]
KINDS: list[Shaping] = [
    Clip(-0.5, 0.75),
    Threshold(),
    Threshold(0.9, 1.5),
    Threshold(0.31),
    Threshold(1.0),
    Rescale(0.7),
    Rescale(1.0),
    MatchNorm(-1),
    GuideChannels(2),
    GuideFrames(0.25),
    Project(0.0, 2.5),
    Project(1.0, 3.0),
    Project(0.3, axis=-1),
]


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        *((shape, kind) for shape in SHAPES for kind in KINDS),
        ((3, 17, 19), MatchNorm(-2)),
        ((2, 8, 9), MatchNorm(-3)),
        ((2, 8, 9), Project(0.2, 2, axis=-2)),
    ],
    ids=str,
)
def test_bits_are_those_of_the_executor(kind: Shaping, shape: tuple[int, ...]) -> None:
    count = shaping.value_count(kind)
    ports = [Value(f"value_{i}", np.dtype(np.float32), (BATCH, *shape)) for i in range(count)]
    table = Builder("shaped")
    ends = [table.number(end) for end in (kind.low, kind.high)] if isinstance(kind, Clip) else []
    made = lay_shaping(table, kind, [port.name for port in ports], ends, shape)
    table.nodes.append(Node("Identity", (made,), ("output",)))
    graph = table.graph(ports, [replace(ports[0], name="output")], {})
    session = ort.InferenceSession(io.to_model(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for batch in (1, 3):
        values = [rng.normal(0.2, 2, (batch, *shape)).astype(np.float32) for _ in range(count)]
        (found,) = session.run(None, {port.name: value for port, value in zip(ports, values, strict=True)})
        np.testing.assert_array_equal(found, shaping.apply(kind, values))


@pytest.mark.parametrize("kind", [Threshold(), Rescale()], ids=str)
def test_over_a_free_size_there_is_no_form(kind: Shaping) -> None:
    check_shaping(kind, (1, 8, 8))
    check_shaping(Clip(-1, 1), (1, "height", 8))
    with refuses("height is free", "use clip, or export"):
        check_shaping(kind, (1, "height", 8))
