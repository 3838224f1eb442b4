"""The times that a network gets: a scalar, two times, and the times of two weighted networks."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.ports import vectorize_time
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.export.verification.points import comparison_points
from fewstep.export.verification.reference import forward_signature
from fewstep.graph.graph import Graph
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.identities import drop_identities
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from tests.bundles import value
from tests.export.denoisers import X_SHAPE, Tiny
from tests.export.networks import two_networks_denoiser
from tests.export.networks.two_networks_denoiser import EARLIEST, LATEST, PICTURE, Edited
from tests.export.verify_export import verify_source
from tests.onnx_text import graph_of_text, parse_graph

pytestmark = pytest.mark.slow

LABEL = Condition("class", input="label", low=0, high=2)


class Jumping(Tiny):
    def forward(self, x: Tensor, time: Tensor, to: Tensor, label: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x, 1000 * (time - to / 2) + label)


@pytest.mark.slow
def test_a_module_gets_both_in_the_order_of_its_signature() -> None:
    spec = Spec("jumping", X_SHAPE, (LABEL,), "flow", ScheduleSpec("flow", timesteps=1), to="to")
    torch.manual_seed(0)
    prepared, table = verify_source(TorchSource(Jumping().requires_grad_(False), spec, "jumping", "0" * 64))
    assert table.worst.relative < 1e-5
    assert forward_signature(spec) == "forward(x, time, to, class)"
    assert prepared.prologue is not None
    assert [value.name for value in prepared.prologue.inputs] == ["time", "time_to", "label"]


def test_verification_goes_to_every_cleaner_time() -> None:
    spec = Spec("jumping", X_SHAPE, (LABEL,), "flow", ScheduleSpec("flow", timesteps=1), to="to")
    jumps = {(point.time, float(to)) for point in comparison_points(spec) for to in point.feeds["time_to"]}
    assert {(round(time, 3), round(to, 3)) for time, to in jumps} == {
        (1.0, 0.667), (1.0, 0.333), (1.0, 0.0), (0.667, 0.333), (0.667, 0.0), (0.333, 0.0),
    }  # fmt: skip


def test_a_module_that_takes_one_time_is_named() -> None:
    spec = Spec("tiny", X_SHAPE, (), "flow", ScheduleSpec("flow"), to="to")
    with pytest.raises(UserError) as error:
        TorchSource(Tiny().requires_grad_(False), spec, "tiny", "0" * 64).trace()
    assert "the Spec gives x, time, to" in error.value.fix


@pytest.mark.slow
@pytest.mark.parametrize("time", ["[n]", "", "[1]"], ids=["vector", "scalar", "one"])
def test_an_onnx_file_names_its_second_time(time: str, tmp_path: Path) -> None:
    """out = conv(x) * (s - t), both times cast, unsqueezed and reshaped as exporters do it."""
    whole, one = ", ".join(map(str, X_SHAPE)), "Identity(scaled_{0})" if time else "Unsqueeze(scaled_{0}, zero)"
    column = f"scaled_{{0}} = Mul({{0}}, two) one_{{0}} = {one} column_{{0}} = Reshape(one_{{0}}, columns)"
    model = parse_graph(
        f"""elsewhere (float[n, {whole}] sample, float{time} s, float{time} t) => (float[n, {whole}] out) {{
            {column.format("s")}
            {column.format("t")}
            span = Sub(column_s, column_t)
            h = Conv<pads=[1, 1, 1, 1]>(sample, weight)
            out = Mul(h, span)
        }}""",
        two=np.float32(2),
        zero=np.array([0]),
        columns=np.array([-1, 1, 1, 1]),
        weight=np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32),
    )
    onnx.save(model, tmp_path / "m.onnx")
    spec = {"name": "m", "x_shape": X_SHAPE, "conditions": [], "prediction": "flow", "schedule": {"kind": "flow"}}
    (tmp_path / "m.json").write_text(json.dumps({**spec, "x": "sample", "time": "s", "to": "t", "output": "out"}))
    prepared, table = verify_source(load_source(str(tmp_path / "m.onnx"), tmp_path / "m.json"))
    assert table.worst.relative < 1e-5
    assert prepared.prologue is not None
    assert [value.name for value in prepared.prologue.inputs] == ["time", "time_to"]


def test_guidance_by_two_networks_is_that_of_sine(tmp_path: Path) -> None:
    """e_u + w (beta e_one + (1 - beta) e_c - e_u), with beta in its times and 0 elsewhere, as the authors' code has."""
    export(ExportOptions(f"{two_networks_denoiser.__file__}:make", tmp_path / "bundle"))
    torch.manual_seed(0)
    module, beta, weight = Edited(), 0.7, 3.0
    sampler, who = load(tmp_path / "bundle"), {"class": [1], "share": [beta]}
    plain = {"uncond": {"class": None, "share": [0.0]}}
    states = list(sampler.steps("ddim:5@trailing", [0], who, weight, branches=plain))
    for state in states:
        x, time = torch.from_numpy(state.u), torch.tensor([float(state.step.time)])
        with torch.no_grad():
            unconditional, asked = (module.all(x, time, torch.tensor([label])) for label in (3, 1))
            one = module.one(x, time, torch.tensor([PICTURE]))
        say = beta if EARLIEST <= state.step.time <= LATEST else 0.0
        noise = (unconditional + weight * (say * one + (1 - say) * asked - unconditional)).numpy()
        assert state.step.alpha is not None and state.step.sigma is not None
        expected = (state.u - state.step.sigma * noise) / state.step.alpha
        np.testing.assert_allclose(state.x0, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    first, *_, last = (state.step.time for state in states)
    assert first > LATEST and last < EARLIEST  # both are of the first network alone


TIMES = np.array([3.0, 5.0, 8.0], np.float32)
SIZE = "size = Shape<start=0, end=1>(x)"


def graph(body: str) -> Graph:
    """y = x + f(t), where the body computes f [B] or [1] from the scalar t, as "made"."""
    return graph_of_text(
        f"""(float[batch, 2] x, float t) => (float[batch, 2] y)
        {{ {body} column = Unsqueeze(made, end) y = Add(x, column) }}""",
        **{"half": 0.5, "one": [1.0], "axis": np.int64([0]), "flat": np.int64([-1]), "end": np.int64([1])},
    )


@pytest.mark.parametrize(
    "body",
    [
        "made = Unsqueeze(t, axis)",
        "made = Reshape(t, flat)",
        "made = Mul(t, one)",
        "h = Mul(t, half) made = Unsqueeze(h, axis)",
        f"{SIZE} v = Unsqueeze(t, axis) made = Expand(v, size)",
        f"{SIZE} v = Unsqueeze(t, axis) c = Cast<to=1>(v) h = Add(c, half) made = Expand(h, size)",
    ],
    ids=["unsqueeze", "reshape", "times-one", "after-arithmetic", "expand", "cast-and-expand"],
)
def test_each_sample_has_its_own_time(body: str) -> None:
    before = graph(body)
    after = vectorize_time(before, "t")
    assert after is not None
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    inputs = (after.inputs[0], value("t", "batch"))
    vector = drop_unused(drop_identities(replace(after, inputs=inputs)))
    assert not {"Expand", "Shape"} & set(vector.ops())
    found = run(vector, {"x": x, "t": TIMES})["y"]
    for row, time in enumerate(TIMES):
        np.testing.assert_array_equal(found[row], run(before, {"x": x, "t": np.array(time)})["y"][row])


@pytest.mark.parametrize(
    "body",
    ["m = Mul(t, x) made = ReduceMean<keepdims=0>(m, flat)", "s = Sin(t) made = Unsqueeze(s, axis)"],
    ids=["with-x", "unknown-operation"],
)
def test_a_time_that_is_used_as_a_number_stays_one(body: str) -> None:
    assert vectorize_time(graph(body), "t") is None
