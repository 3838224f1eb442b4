from dataclasses import replace

import msgspec
import numpy as np
import pytest
from denoisers import DoubleInside, Exported, Labelled, Mixing, Overflowing, Tiny, source

from fewstep.export.spec import Spec
from fewstep.export.verify import BATCHES, TIMES, points, verify
from fewstep.graph.graph import Graph
from fewstep.graph.prepare import prepare
from fewstep.models.fashion_mnist.unet import NULL_CLASS
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition, ScheduleSpec


def spoiled(graph: Graph, weight: str) -> Graph:
    """One weight doubled."""
    return graph.with_nodes(graph.nodes, {weight: 2 * graph.constants[weight]})


def test_torch_the_exported_and_the_prepared_graph_agree(unet: Exported) -> None:
    table = verify(unet.source.spec, unet.traced, unet.prepared)
    assert len(table.comparisons) == 2 * TIMES * len(BATCHES)
    assert table.worst.relative < 1e-5


def test_points_cover_times_batches_and_conditions(unet: Exported) -> None:
    seen = list(points(unet.source.spec))
    assert {point.batch for point in seen} == set(BATCHES) and len({point.time for point in seen}) == TIMES
    labels = np.concatenate([point.feeds["class"] for point in seen])
    assert NULL_CLASS in labels and set(range(NULL_CLASS)) <= set(labels.tolist())


def test_number_conditions_keep_to_their_bounds() -> None:
    image = Condition("image", "image", shape=(3, 2), dtype="float32", low=0.0, high=2.0, null=-1.0)
    spec = Spec("s", (1, 2, 2), (image,), "epsilon", ScheduleSpec("linear"))
    values = np.concatenate([point.feeds["image"] for point in points(spec)])
    assert values.dtype == np.float32 and values.shape[1:] == (3, 2)
    assert values.max() <= 2 and values.min() == -1 and values[values != -1].min() >= 0


def test_a_mismatch_with_torch_names_the_first_node_that_differs(unet: Exported) -> None:
    wrong = replace(unet.traced, graph=spoiled(unet.traced.graph, "up7.conv2.weight"))
    with pytest.raises(UserError, match=r"differs from torch from node '\w+' \(up7\.conv2/Conv\) on") as failure:
        verify(unet.source.spec, wrong, unet.prepared)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("weight", "node"),
    [("middle.conv1.weight", r"middle\.conv1/Conv"), ("time_mlp.2.weight", r"time_mlp\.2/Gemm")],
    ids=["body", "prologue"],
)
def test_a_mismatch_by_a_rewrite_names_the_first_node_that_differs(unet: Exported, weight: str, node: str) -> None:
    prepared = unet.prepared
    assert prepared.prologue is not None
    in_body = weight in prepared.body.constants
    wrong = (
        replace(prepared, body=spoiled(prepared.body, weight))
        if in_body
        else replace(prepared, prologue=spoiled(prepared.prologue, weight))
    )
    with pytest.raises(UserError, match=rf"prepared graph differs .* \({node}\) on"):
        verify(unet.source.spec, unet.traced, wrong)


def test_an_output_that_is_not_finite_names_the_tensor_where_it_began() -> None:
    overflowing = source(Overflowing())
    traced = overflowing.trace()
    with pytest.raises(UserError, match="from tensor 'exp' on"):
        verify(overflowing.spec, traced, prepare(traced.graph))


def test_a_label_that_the_module_does_not_know_is_named() -> None:
    label = Condition("class", "class", low=0, high=2)
    known, unknown = (source(Labelled(), msgspec.structs.replace(label, high=high)) for high in (1, 2))
    traced = known.trace()
    assert verify(known.spec, traced, prepare(traced.graph)).worst.relative < 1e-6
    with pytest.raises(UserError, match=r"Labelled failed at time 999, batch 3: index out of range .* class\) take"):
        verify(unknown.spec, traced, prepare(traced.graph))


def test_a_module_that_mixes_the_samples_of_a_batch_is_refused() -> None:
    mixing = source(Mixing())
    traced = mixing.trace()
    with pytest.raises(UserError, match="Mixing gives a sample alone another output than in its batch") as failure:
        verify(mixing.spec, traced, prepare(traced.graph))
    assert "\n" not in str(failure.value)


def test_an_operation_that_onnxruntime_lacks_is_one_line() -> None:
    tiny = source(DoubleInside())
    traced = tiny.trace()
    with pytest.raises(UserError, match=r"onnxruntime .* cannot load the graph: .*Conv") as failure:
        verify(tiny.spec, traced, prepare(traced.graph))
    assert "\n" not in str(failure.value)


def test_a_module_without_conditions_is_verified_too() -> None:
    tiny = source(Tiny())
    traced = tiny.trace()
    assert verify(tiny.spec, traced, prepare(traced.graph)).worst.relative < 1e-6
