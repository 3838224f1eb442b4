from dataclasses import replace
from functools import cache

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import TracedDenoiser
from fewstep.export.verification.points import BATCHES, TIMES, Scope
from fewstep.export.verification.verify import compare, count_samples, record_reference, warn_of_time
from fewstep.graph.graph import Graph, Node
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.split_attention import split_attention
from fewstep.graph.prepare import prepare
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Carried, Condition
from fewstep.runtime.kinds.graph_entry import CARRIED
from tests.export.denoisers import DoubleInside, Exported, Labelled, Mixing, Tiny, source
from tests.export.verify_export import verify, verify_source
from tests.refusals import refuses


def spoil(graph: Graph, weight: str) -> Graph:
    """Double one weight."""
    return graph.with_nodes(graph.nodes, {weight: 2 * graph.constants[weight]})


def test_torch_the_exported_and_the_prepared_graph_agree_and_float16_rounds_at_each_time(unet: Exported) -> None:
    table = verify(unet.source.spec, unet.traced, unet.prepared)
    rounded = [comparison for comparison in table.comparisons if comparison.stage == "float16"]
    assert len({each.time for each in rounded}) == len(rounded) == TIMES
    assert len(table.comparisons) - TIMES == 2 * TIMES * len(BATCHES)
    assert all(1e-5 < comparison.relative < 2e-2 for comparison in rounded) and table.worst.relative < 1e-5


@pytest.mark.parametrize(
    ("graph", "scope", "weight", "said"),
    [
        ("exported", "full", "up28.conv2.weight", r"differs from torch from node '\w+' \(up28\.conv2/Conv\)"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("exported", "quick", "middle.conv1.weight", r"differs from torch from .*\(middle\.conv1/Conv\)"),
                ("body", "full", "middle.conv1.weight", r"prepared graph differs .*\(middle\.conv1/Conv\)"),
                ("body", "quick", "middle.conv1.weight", r"prepared graph .*\(middle\.conv1/Conv\)"),
                ("prologue", "full", "time_mlp.2.weight", r"prepared graph differs .*\(time_mlp\.2/Gemm\)"),
            )
        ),
    ],
)
def test_a_mismatch_names_the_graph_and_the_node_in_which_it_begins(
    unet: Exported, graph: str, scope: Scope, weight: str, said: str
) -> None:
    """An error in the exported graph is also in the prepared one."""
    traced, part = unet.traced, "prologue" if graph == "prologue" else "body"
    if graph == "exported":
        traced = replace(traced, graph=spoil(traced.graph, weight))
    prepared = replace(unet.prepared, **{part: spoil(getattr(unet.prepared, part), weight)})
    with pytest.raises(UserError, match=f"{said} on"):
        verify(unet.source.spec, traced, prepared, scope)


def test_a_label_that_the_module_does_not_know_is_named() -> None:
    label = Condition("class", "class", low=0, high=2)
    known, unknown = (source(Labelled(), msgspec.structs.replace(label, high=high)) for high in (1, 2))
    traced = known.trace()
    assert verify(known.spec, traced, prepare(traced.graph)).worst.relative < 1e-6
    with refuses(("Labelled", "time 332", "out of range")):
        verify(unknown.spec, traced, prepare(traced.graph))


@pytest.mark.parametrize("scope", ["full", "quick"])
def test_a_module_that_mixes_the_samples_of_a_batch_is_refused(scope: Scope) -> None:
    mixing = source(Mixing())
    traced = mixing.trace()
    with refuses(("Mixing", "a sample alone")):
        verify(mixing.spec, traced, prepare(traced.graph), scope)


class Carrying(Tiny):
    """Adds a carried tensor, and returns what it saw."""

    def forward(self, x: Tensor, time: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return x + past, x


@pytest.mark.parametrize("scope", ["full", "quick"])
def test_a_graph_is_compared_with_carried_tensors_other_than_zeros(scope: Scope) -> None:
    tiny = source(Carrying())
    spec = msgspec.structs.replace(tiny.spec, carried=(Carried("past", tiny.spec.x_shape),))
    reference = record_reference(spec, replace(tiny, spec=spec).trace(), scope=scope)
    assert any(point.feeds[f"{CARRIED}past"].any() for point in reference.points)


def test_an_operation_that_onnxruntime_lacks_is_one_line() -> None:
    with refuses(("cannot load the graph", "Conv")):
        verify_source(source(DoubleInside()))


class Loud(Tiny):
    """A network that goes through 1e6, which float16 cannot represent, and back."""

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h: Tensor = super().forward(x, time)
        return torch.sqrt((h * 1e3) ** 2 + 1) * 1e-3


@pytest.mark.slow
def test_a_network_that_float16_cannot_hold_is_exported_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    _, table = verify_source(source(Loud()))
    assert table.worst.relative < 1e-5
    assert max(comparison.relative for comparison in table.comparisons if comparison.stage == "float16") > 1
    (said,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith("Loud in float16 differs from float32 and overflows at ")
    assert "from node 'pow_1' (Pow) on (also at time " in said and said.count(" time ") == TIMES


def test_a_quick_verification_compares_what_is_deployed_at_few_points(unet: Exported) -> None:
    """One sample of each label that no other point has, and one batch of pure noise and of the cleanest time."""
    table = verify(unet.source.spec, unet.traced, unet.prepared, scope="quick")
    assert table.scope == "quick" and {comparison.stage for comparison in table.comparisons} == {"prepared", "float16"}
    assert [comparison.batch for comparison in table.comparisons if comparison.stage == "prepared"] == [1, 1, 2]
    assert table.worst.relative < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("scope", "count"), [("full", 87), ("quick", 10)])
def test_evaluations_are_counted_before_they_run(unet: Exported, scope: Scope, count: int) -> None:
    """Evaluations of torch and of graphs at all points, and in float16 at some; in full also of torch for the last
    point's samples alone and together, and of graphs for the last point with other times.
    """
    rows: list[int] = []

    class Counted:
        def __getattr__(self, name: str) -> object:
            return getattr(unet.traced.reference, name)

        def output(self, feeds: dict[str, np.ndarray], where: str = "") -> np.ndarray:
            rows.append(len(feeds["x"]))
            return unet.traced.reference.output(feeds, where)

    table = verify(unet.source.spec, replace(unet.traced, reference=Counted()), unet.prepared, scope=scope)  # type: ignore[arg-type]
    mixed = max(comparison.batch for comparison in table.comparisons) if scope == "full" else 0
    assert (
        sum(rows) + sum(comparison.batch for comparison in table.comparisons) + mixed
        == count
        == count_samples(unet.source.spec, scope)
    )


@pytest.mark.parametrize(
    ("scope", "in_half", "softmaxes"),
    [("full", False, [1, 16, 16]), ("quick", False, [16, 16]), ("quick", True, [16, 8, 16])],
    ids=["full", "quick", "float16"],
)
def test_large_attention_is_verified_in_parts(
    attending: Exported, scope: Scope, in_half: bool, softmaxes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every graph of a verification: exported, prepared, in float16, and with each result rounded.

    The exported graph's attention has three axes, so it stays whole. In float16 the scores have half the bytes.
    """

    def in_parts(graph: Graph) -> Graph:
        made.append(split_attention(graph, 16 * 4))
        return made[-1]

    made: list[Graph] = []
    monkeypatch.setattr("fewstep.export.verification.verify.split_attention", in_parts)
    traced, prepared = attending.traced, attending.prepared
    expected = record_reference(attending.source.spec, traced, scope=scope)
    half = replace(prepared, body=to_half(prepared.body, FLOAT16)) if in_half else None
    table = compare(expected, traced.graph, prepared, lambda: traced.reference, half=half)
    assert [graph.ops().count("Softmax") for graph in made] == softmaxes
    assert table.worst.relative < 1e-5


@pytest.mark.parametrize(
    ("last", "said"),
    [
        (Node("ReduceMean", ("made", "axis"), ("output",), {"keepdims": 1}), "prepared graph differs .* batch 2"),
        (Node("Reshape", ("made", "one"), ("output",)), "cannot run the graph: .*Reshape"),
        (Node("Expand", ("made", "two"), ("output",)), "prepared graph differs .* batch 1"),
    ],
    ids=["mixed", "frozen", "of two"],
)
def test_a_quick_verification_finds_a_wrong_batch_axis(attending: Exported, last: Node, said: str) -> None:
    body = attending.prepared.body
    nodes = [replace(n, outputs=("made",)) if n.output == "output" else n for n in body.nodes]
    constants = {"axis": np.array([0], np.int64), "one": np.array([1, 2, 4, 4], np.int64)}
    constants["two"] = np.array([2, 1, 1, 1], np.int64)
    wrong = replace(attending.prepared, body=body.with_nodes([*nodes, last], constants))
    with pytest.raises(UserError, match=said):
        verify(attending.source.spec, attending.traced, wrong, "quick")


def test_minutes_are_reported_before_they_pass(unet: Exported, caplog: pytest.LogCaptureFixture) -> None:
    warn_of_time(unet.source.spec, "full", 0.5)
    assert caplog.messages == []
    warn_of_time(unet.source.spec, "full", 7.0)
    assert caplog.messages == [
        "verifying takes 87 evaluations of one sample, about 10 minutes; --verify quick takes 10 of them"
    ]


class Masked(Tiny):
    """A mask that scales the prediction."""

    def forward(self, x: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        h: Tensor = super().forward(x, time)
        return h * (1 + mask.float().mean(-1))[:, None, None, None]


class Other(Masked):
    """Another prediction if the mask is this one."""

    def __init__(self, mask: list[int], factor: float) -> None:
        super().__init__()
        self.mask, self.factor = torch.tensor(mask), factor

    def forward(self, x: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        is_this = (mask == self.mask).all(-1)[:, None, None, None]
        return super().forward(x, time, mask) * torch.where(is_this, self.factor, 1.0)


@cache
def trace_masked(dtype: str) -> tuple[TorchSource, TracedDenoiser]:
    """The trace of `Masked`, whose mask has this type."""
    low, high = (None, None) if dtype == "bool" else (0, 1)
    made = source(Masked(), Condition("keys", "mask", (4,), dtype, low=low, high=high))  # type: ignore[arg-type]
    return made, made.trace()


def trace_mask(dtype: str, mask: list[int], factor: float) -> tuple[TorchSource, TracedDenoiser]:
    """The trace of `Masked`, and as its reference `Other` with the same weights."""
    made, traced = trace_masked(dtype)
    other = Other(mask, factor)
    other.load_state_dict(made.module.state_dict())
    return made, replace(traced, reference=replace(traced.reference, module=other))  # type: ignore[type-var]


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["full", "quick"])
@pytest.mark.parametrize(
    ("dtype", "mask", "said"),
    [
        ("int64", [0, 0, 0, 0], "keys all 0"),
        ("int64", [1, 1, 1, 1], "keys all 1"),
        ("int64", [1, 0, 0, 0], "keys 1 at the first element alone"),
        ("bool", [0, 0, 0, 0], "keys all False"),
        ("bool", [0, 0, 0, 1], "keys True at the last element alone"),
        ("float32", [0, 0, 0, 0], "keys all 0"),
    ],
)
def test_a_difference_at_an_edge_of_a_condition_is_found_and_named(
    dtype: str, mask: list[int], said: str, scope: Scope
) -> None:
    made, traced = trace_mask(dtype, mask, 1.01)
    with pytest.raises(UserError, match=rf"differs from torch.*: 0\.0099 at time \d+, batch 1, {said}; "):
        verify(made.spec, traced, prepare(traced.graph), scope)


def test_a_network_without_an_answer_at_an_edge_is_exported_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    made, traced = trace_mask("int64", [0, 0, 0, 0], torch.nan)
    table = verify(made.spec, traced, prepare(traced.graph))
    assert "keys all 0" not in (comparison.edge for comparison in table.comparisons) and table.worst.relative < 1e-6
    (said,) = (record.message for record in caplog.records if record.levelname == "WARNING")
    assert said.startswith("the output of Other is not finite at time 999, batch 1, keys all 0, from ")
    assert said.endswith("; pass no sample with that value")
