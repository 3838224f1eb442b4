"""Denoisers that carry tensors from run to run: their export, and samples chunk by chunk, compared with a torch
loop.
"""

import shutil
from pathlib import Path

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch

from fewstep.cli.describe.baked import describe_baked
from fewstep.export.sources.torch_module import TorchSource
from fewstep.fitting.fit import fit
from fewstep.fitting.options import FitOptions
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.literature.populations.population import population
from fewstep.literature.streams.stream import stream
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.guidance import Cfg
from fewstep.plans.noise import normal_batch
from fewstep.runtime import Cancelled, Hold
from fewstep.runtime.runs.tiles import Tiles, sample_tiles
from fewstep.runtime.sampling import finite_checks
from fewstep.runtime.sampling.loading import load
from tests.export.networks.carrying_denoiser import BANDS, FRAMES, PAST, WIDTH, Causal, spec
from tests.refusals import refuses


@pytest.fixture(scope="module")
def bundle(exported_carrying: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(exported_carrying, tmp_path_factory.mktemp("carried") / "bundle")


def in_torch(seeds, labels, chunks: int, guidance: float, times: list[float]) -> list[np.ndarray]:
    """DDIM of a flow (Euler) by hand. Each step has its own past, and all steps share the count."""
    network, rows = Causal().eval(), 2 * len(seeds)
    past, count = [torch.zeros(rows, WIDTH, PAST)] * (len(times) + 1), torch.zeros(rows, 1, dtype=torch.int64)
    label, samples = torch.tensor([*labels, *[3] * len(seeds)]), []
    for number in range(chunks):
        x = torch.from_numpy(normal_batch([seed + number for seed in seeds], 0, (BANDS, FRAMES)))
        for index, (time, end) in enumerate(zip([*times, 0.0], [*times[1:], 0.0, 0.0], strict=True)):
            with torch.no_grad():
                v, past[index], after = network(torch.cat([x, x]), torch.full((rows,), time), label, past[index], count)
            cond, uncond = v.chunk(2)
            x = x + (end - time) / 1000 * (uncond + guidance * (cond - uncond))
        count = after
        samples.append(x.numpy())
    return samples


def test_chunks_are_the_chunks_of_a_loop_in_torch(bundle: Path) -> None:
    sampler = load(bundle)
    plan = sampler.compile("ddim:3", 2.0)
    times = [step.time for step in plan.steps[:-1]]
    expected, carried = in_torch([5, 50], [1, 2], 4, 2.0, times), None
    for number in range(4):
        seeds, condition = [5 + number, 50 + number], {"label": [1, 2]}
        x, after = sampler.carry_on("ddim:3", seeds, condition, 2.0, carried=carried)
        np.testing.assert_allclose(x, expected[number], atol=2e-6)
        np.testing.assert_array_equal(sampler.sample(plan, seeds, condition, carried=carried), x)
        *_, last = sampler.steps(plan, seeds, condition, carried=carried)
        np.testing.assert_array_equal(last.slots.banks["past"][1].value, after.banks["past"][1].value)
        carried = after
    assert [slot.value.tolist() for slot in carried.banks["count"]] == [[[4]] * 4]
    alone = None
    for number in range(4):  # a sample follows from its own past, whatever else is in the batch
        y, alone = sampler.carry_on(plan, [50 + number], {"label": [2]}, carried=alone)
    np.testing.assert_allclose(y, x[1:], atol=1e-6)


def test_a_chunk_keeps_its_held_part(bundle: Path) -> None:
    value, mask = np.full((1, BANDS, FRAMES), 0.25, np.float32), np.zeros((1, BANDS, FRAMES), np.float32)
    mask[:, 0] = 1.0
    x, _ = load(bundle).carry_on("ddim:3", [5], {"label": [1]}, hold=Hold(value, mask))
    np.testing.assert_array_equal(x[:, 0], value[:, 0])
    assert not np.any(x[:, 1:] == 0.25)


def test_a_chunk_far_beyond_the_data_is_warned_of(
    bundle: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite_checks, "_WARNED", set())
    monkeypatch.setattr(finite_checks, "data_range", lambda manifest: 1e-3)
    load(bundle).carry_on("ddim:3", [5], {"label": [1]})
    assert "far beyond usual data, which stay within 0.001" in caplog.text


def test_the_manifest_says_what_is_carried(bundle: Path) -> None:
    manifest = load(bundle).bundle.manifest
    assert [(tensor.name, tensor.shape, tensor.bank, tensor.dtype) for tensor in manifest.carried] == [
        ("past", (WIDTH, PAST), "step", "float32"),
        ("count", (1,), "sample", "int64"),
    ]
    body = manifest.bodies["float32"].graph
    ports = {each.name: each.shape for each in (*body.inputs, *body.outputs) if each.role == "carried"}
    assert ports == {
        "carried_past": ("batch", WIDTH, PAST),
        "carried_count": ("batch", 1),
        "next_past": ("batch", WIDTH, PAST),
        "next_count": ("batch", 1),
    }
    assert manifest.prologue is not None
    assert not any(port.name.startswith("carried") for port in manifest.prologue.inputs)


@pytest.mark.parametrize(("unroll", "batch"), [(False, None), (True, None), (False, 2)])
@pytest.mark.parametrize("guidance", [None, 2.0, Cfg((2.0, 1.0))])
def test_a_baked_file_carries_on(bundle: Path, tmp_path: Path, unroll: bool, batch: int | None, guidance) -> None:
    sampler, file = load(bundle), tmp_path / "run.onnx"
    plan = sampler.compile("dpmpp_2m:3", guidance)
    (tmp_path / "plan.json").write_bytes(encode(plan))
    baked, _ = bake(BakeOptions(bundle, str(tmp_path / "plan.json"), file, unroll=unroll, batch=batch))
    assert any("returns sample" in line and "; next_past float32" in line for line in describe_baked(file, baked))
    session = onnxruntime.InferenceSession(file)
    rows = sum(len(step.branches) for step in plan.steps)
    ports = {port.name: tuple(port.shape) for port in baked.carried}
    last, size = len(plan.steps[-1].branches), "batch" if batch is None else batch
    assert ports == {"next_past": (rows, size, WIDTH, PAST), "next_count": (last, size, 1)}
    fed = {
        "carried_past": np.zeros((rows, 2, WIDTH, PAST), np.float32),
        "carried_count": np.zeros((last, 2, 1), np.int64),
    }
    carried = None
    for number in range(3):
        labels, seeds = np.array([number % 3, 1]), [number, 50 + number]
        x, carried = sampler.carry_on(plan, seeds, {"label": labels}, carried=carried)
        noise = normal_batch(seeds, 0, (BANDS, FRAMES))
        made, past, count = session.run(None, {"noise": noise, "label": labels, **fed})
        np.testing.assert_allclose(made, x, rtol=0, atol=1e-6 if unroll else 0)  # in a Loop bit by bit
        fed = {"carried_past": past, "carried_count": count}
    assert count.max() == 3


def test_runs_that_cannot_carry_say_so_in_one_line(bundle: Path) -> None:
    sampler, one = load(bundle), {"label": [1]}
    attempts = [
        lambda: sampler.sample_each(["ddim:2"], condition=one),
        lambda: population(sampler, "ddpm:2", lambda state: np.zeros(2), particles=2, condition=one),
        lambda: stream(sampler, plan="ddim:2", condition=one),
        lambda: sample_tiles(sampler, "ddim:2", (BANDS, 2 * FRAMES), Tiles(4), condition=one),
        lambda: fit(FitOptions(bundle, steps=2)),
    ]
    for attempt in attempts:
        with pytest.raises(
            UserError, match="carries 'past' from run to run, which .*; (call sample, steps or|run a plan by its name)"
        ):
            attempt()
    _, carried = sampler.carry_on("ddim:2", condition=one)
    with refuses(("'past'", "[1, 16, 3]", "[2, 16, 3]")):
        sampler.sample("ddim:2", [0, 1], {"label": [1, 2]}, carried=carried)
    with refuses(("'ddim:2@arctan'", "'ddim:3@arctan'")):
        sampler.sample("ddim:3", [0], one, carried=carried)
    with refuses(("reads 'past' in branch 'uncond'", "slot 0 does not have")):
        sampler.sample("ddim:2", [0], one, 2.0, carried=carried)


def test_a_part_that_is_held_and_a_run_that_is_cut_move_slots_with_their_samples(bundle: Path) -> None:
    sampler, one = load(bundle), {"label": [1]}
    _, carried = sampler.carry_on("ddim:3", [0], one)
    plain, after = sampler.carry_on("ddim:3", [1], one, carried=carried)
    stop = iter([False, False, True])
    with pytest.raises(Cancelled):
        sampler.carry_on("ddim:3", [1], one, carried=carried, cancel=lambda: next(stop))
    again, same = sampler.carry_on("ddim:3", [1], one, carried=carried)
    np.testing.assert_array_equal(again, plain)  # a run that was cut has left its past as it was
    for own, other in zip(same.banks["past"], after.banks["past"], strict=True):
        np.testing.assert_array_equal(own.value, other.value)
    mask = np.zeros((BANDS, FRAMES), np.float32)
    mask[:, : FRAMES // 2] = 1
    hold = Hold(np.full((BANDS, FRAMES), 0.5, np.float32), mask)
    held, left = sampler.carry_on("ddim:3", [1], one, carried=carried, hold=hold)
    assert (held[0][mask == 1] == 0.5).all() and np.abs(held - plain)[0][mask == 0].max() > 1e-3
    *_, last = sampler.steps("ddim:3", [1], one, carried=carried, hold=hold)
    np.testing.assert_array_equal(last.u, held)  # the evaluation that ends a chunk sees the part that is held
    np.testing.assert_array_equal(last.slots.banks["past"][3].value, left.banks["past"][3].value)
    assert np.abs(left.banks["past"][3].value - after.banks["past"][3].value).max() > 1e-3


class Returns(Causal):
    """A module that applies `change` to its outputs."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def forward(self, x, time, label, past, count):
        return self.change(super().forward(x, time, label, past, count))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda made: made[0], "Returns should return past, count in addition to its prediction, but returned Tensor"),
        (
            lambda made: made[:2],
            "Returns should return past, count in addition to its prediction, but returned 2 values",
        ),
        (lambda made: (made[0], made[1][:, :, 1:], made[2]), r"returned 'past' as \[3, 16, 2\] of torch.float32, not "),
        (lambda made: (*made[:2], made[2].float()), r"returned 'count' as \[3, 1\] of torch.float32, not"),
    ],
)
def test_a_module_that_carries_otherwise_is_refused(change, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        TorchSource(Returns(change), spec(), "test", "0" * 64).trace()
    assert "return (prediction, past, count)" in str(raised.value)


def test_a_file_holds_no_mixed_slots(bundle: Path, tmp_path: Path) -> None:
    plan = load(bundle).compile("ddim:3")
    half = tuple(msgspec.structs.replace(read, row=(*[0.0] * 3, 0.5)) for read in plan.steps[3].carry_in[:1])
    last = msgspec.structs.replace(plan.steps[3], carry_in=(*half, *plan.steps[3].carry_in[1:]))
    (tmp_path / "mixed.json").write_bytes(encode(msgspec.structs.replace(plan, steps=(*plan.steps[:3], last))))
    with refuses(("'past'", "reorders"), "run the bundle"):
        bake(BakeOptions(bundle, str(tmp_path / "mixed.json"), tmp_path / "run.onnx"))
    blind = msgspec.structs.replace(last, carry_in=half)
    with refuses("does not feed 'count' to the denoiser at step 3"):
        load(bundle).compile(msgspec.structs.replace(plan, steps=(*plan.steps[:3], blind)))
