"""Students of guidance: their losses on networks with known answers, and a LoRA file in an int8 graph."""

from math import erf, exp
from pathlib import Path

import adapter
import consistency_lora
import guided
import guided_lora
import numpy as np
import pytest
import torch
from denoising import Batch
from torch import Tensor, nn

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime import load


def test_a_student_of_guidance_learns_what_two_branches_make() -> None:
    class Teacher(nn.Module):
        def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
            x = x + time[:, None, None, None] / 1000
            return torch.where(label == guided_lora.pictures.NULL, 0.5, 1 + label / 8)[:, None, None, None] * x

    def pictures(count: int, generator: torch.Generator) -> Batch:
        return Batch(torch.full((count, 1, 28, 28), 3.0), (torch.arange(count) % 10,))

    (loss, stated), asked = (
        (each.distillation(Teacher(), pictures, 16) for each in (guided_lora, guided)),
        list[Tensor](),
    )
    assert loss(Teacher(), torch.Generator().manual_seed(0)) > 0.1

    def follows(x: Tensor, time: Tensor, label: Tensor, weight: Tensor) -> Tensor:
        torch.testing.assert_close(x.mean((1, 2, 3)), 3 * (1 - time / 1000), atol=0.2, rtol=0)
        torch.testing.assert_close(x.std((1, 2, 3)), time / 1000, atol=0.1, rtol=0)
        asked.append(torch.stack([time / 1000, weight]))
        return (0.5 + (0.5 + label / 8) * weight)[:, None, None, None] * (x + time[:, None, None, None] / 1000)

    assert loss(lambda *all: follows(*all, torch.full((16,), 3.0)), torch.Generator().manual_seed(0)) < 1e-9
    assert stated(follows, torch.Generator().manual_seed(0)) < 1e-9
    assert ((asked[-1].amax(1) - asked[-1].amin(1)) / torch.tensor([1, guided.MOST - guided.LEAST])).min() > 0.7
    assert stated(lambda *all: Teacher()(*all[:3]), torch.Generator().manual_seed(0)) > 0.1
    torch.manual_seed(0)
    both = guided.LabelAndWeight(nn.Embedding(11, 8))
    nn.init.ones_(both.weights[2].weight)
    light, heavy = (both((torch.tensor([3]), torch.tensor([weight]))) for weight in (1.0, 2.0))
    assert (light - heavy).abs().min() > 0.01


def test_a_consistency_student_has_one_end_along_a_path() -> None:
    """For data with one point per class, paths are x = (1 - t) point + t eps with velocity (x - point) / t. The
    target is the student's at an earlier time, without a gradient.
    """
    last, many, asked = consistency_lora.LAST, consistency_lora.TIMES, list[tuple[bool, Tensor]]()

    def exact(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return last * (x - label[:, None, None, None] / 10) / time.clamp(min=1.0)[:, None, None, None]

    def drawn(count: int, generator: torch.Generator) -> Batch:
        label = torch.arange(count) % 10
        return Batch((label / 10)[:, None, None, None].expand(count, 1, 28, 28), (label,))

    def still(x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        asked.append((torch.is_grad_enabled(), time))
        return 0 * x

    loss, seeded = consistency_lora.distillation(exact, drawn, 60), torch.Generator().manual_seed
    assert loss(exact, seeded(0)) < 1e-9
    away = [(2 / torch.pi) ** 0.5 * exp(-(p**2) / 2) + p * erf(p / 2**0.5) for p in torch.arange(10) / 10]
    expected = sum(away) / 10 / many - consistency_lora.HUBER  # E |eps - point|; x is its end
    assert loss(still, seeded(0)) == pytest.approx(expected, rel=0.02)
    (target, before), (student, time) = asked
    assert (target, student) == (False, True)
    torch.testing.assert_close(time - before, torch.full((60,), last / many))
    torch.testing.assert_close(time.unique(), last / many * torch.arange(1.0, many + 1))
    x = torch.randn(2, 1, 28, 28, generator=seeded(0))
    torch.testing.assert_close(consistency_lora.ended(lambda *all: 1e3 + x, x, torch.zeros(2), torch.zeros(2)), x)


def test_an_adapter_changes_nothing_at_first_and_what_it_stores_is_merged() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1))
    x = torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    plain = network(x)
    own = adapter.Adapter(network, 2)
    assert [*own.state_dict()] == ["0.lora_A.weight", "0.lora_B.weight", "2.lora_A.weight", "2.lora_B.weight"]
    assert own.state_dict()["0.lora_B.weight"].shape == (4, 2, 1, 1)
    torch.testing.assert_close(own(x), plain)
    nn.init.ones_(own.get_submodule("0.lora_B").weight)
    changed = own(x)
    assert (changed - plain).abs().max() > 0.01
    torch.testing.assert_close(own.merge()(x), changed)


@pytest.mark.slow
def test_a_trained_file_fills_the_slots_of_an_int8_graph(tmp_path: Path) -> None:
    """It brings a row one step nearer to a guidance of two than the network without it, in int8 as in float32."""
    bundle, seeds, plan = tmp_path / "bundle", range(20_000, 20_032), "dpmpp_2m:8"
    export(ExportOptions(guided_lora.teacher.__file__ + ":make", bundle, verify="quick", lora_slots=("*",), rank=8))
    calibrate(CalibrateOptions(bundle, plan, ("cpu-x86",), trajectories=16))
    who, file = {"class": [seed % 10 for seed in seeds]}, {str(guided_lora.WEIGHTS): 1.0}
    with load(bundle) as exact, load(bundle, "int8") as rounded:
        wanted, none = (exact.sample(plan, seeds, who, weight) for weight in (guided_lora.GUIDANCE, 1))
        made, filled = (each.with_options(adapters=file).sample(plan, seeds, who, 1) for each in (rounded, exact))
        (state,) = exact.with_options(adapters=file).steps("ddim:1", [0, 1], {"class": [3, 4]}, 1)
    assert psnr(made, wanted).mean() > psnr(none, wanted).mean() + 1.0
    assert psnr(made, filled).mean() > 30.0
    file = {str(consistency_lora.WEIGHTS): 1.0}
    with load(bundle, "int8") as rounded:
        once, alone = (each.sample("lcm:1", seeds, who, 1) for each in (rounded.with_options(adapters=file), rounded))
    assert psnr(once, wanted).mean() > psnr(alone, wanted).mean() + 1.0
    noise, label = torch.from_numpy(state.u), torch.tensor([3, 4])
    for network in (guided_lora.make()[0], guided_lora.trained()):
        with torch.no_grad():
            x0 = noise - network(noise, torch.full((2,), 1000.0), label)
        np.testing.assert_allclose(state.x0, x0, atol=1e-4)
