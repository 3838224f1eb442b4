"""Perturbed attention: the identity as attention map, by hand, in diffusers, and in a bundle."""

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.changes import apply_changes, read_change
from fewstep.export.spec import Spec
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.prepare import prepare
from fewstep.literature.attention.attention_calls import attention_calls
from fewstep.literature.attention.pag import pag
from fewstep.measure.rollouts.seeds import draw_condition
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Branches, Pag
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.bundle.reading import open_bundle
from tests.exact_int8 import EXACT_TARGET
from tests.export.denoisers import Tiny, source
from tests.export.verify_export import verify
from tests.graph.bake.run_baked import run_file
from tests.literature.attention.networks import (
    SPEC,
    TOKENS,
    WIDTH,
    WORDS,
    Attention,
    Net,
    export_block,
    inputs,
    rewritten,
)


def perturb(module: nn.Module, spec: Spec, layers: tuple[str, ...]) -> Spec:
    """Change the module in place; the spec gets one more condition."""
    return pag(module, spec, *layers)[1]


def test_calls_are_distinguished_by_what_their_keys_follow_from() -> None:
    """The words' attention to each other does not depend on x. Attention to as many words as tokens is not
    self-attention.
    """
    calls = attention_calls(Net(), SPEC)
    assert [(call.number, call.layer, call.queries, call.keys) for call in calls] == [
        (1, "blocks.0.own", TOKENS, TOKENS + 2),
        (2, "blocks.0.words", TOKENS, WORDS),
        (3, "blocks.1.own", TOKENS, TOKENS + 2),
        (4, "blocks.1.words", TOKENS, WORDS),
    ]
    assert [(call.is_self, call.is_cross) for call in calls] == [(True, False), (False, True)] * 2
    assert [sorted(call.follows) for call in calls] == [["x"], ["text"], ["text", "x"], ["text"]]


class Identity(Attention):
    """The effect of the perturbation on a layer: v, by a share or as a whole."""

    share = 1.0

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        return torch.lerp(super().forward(h, seen), self.v(seen)[:, -TOKENS:], self.share)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize(("layers", "places"), [(("blocks.1",), [1]), ((), [1]), (("all",), [0, 1])])
def test_the_output_is_v_of_the_last_tokens_by_the_share(
    layers: tuple[str, ...], places: list[int], share: float
) -> None:
    ours, own = Net(), Net()
    for place in places:
        layer = Identity()
        layer.load_state_dict(own.blocks[place].own.state_dict())
        layer.share = share
        own.blocks[place].own = layer
    spec = perturb(ours, SPEC, layers)
    (condition,) = spec.conditions[1:]
    assert (condition.name, condition.default, condition.shared) == ("perturbed", (0.0,), True)
    out, plain = ours(*inputs(), torch.full((3,), share)), Net()(*inputs())
    torch.testing.assert_close(out, own(*inputs()), atol=1e-6, rtol=0)
    assert (out - plain).abs().max() <= 1e-6 if share == 0 else (out - plain).abs().max() > 0.01


def test_each_sample_has_its_own_share() -> None:
    ours = Net()
    perturb(ours, SPEC, ("all",))
    together = ours(*inputs(), torch.tensor([0.0, 1.0, 0.5]))
    for row, share in enumerate([0.0, 1.0, 0.5]):
        alone = ours(*(each[row : row + 1] for each in inputs()), torch.tensor([share]))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_attention_of_torch_s_own_layers_is_rewritten() -> None:
    """They call scaled_dot_product_attention inside torch, or a fused form of it."""

    class Torch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.into, self.out = nn.Linear(2, WIDTH), nn.Linear(WIDTH, 2)
            self.layer = nn.TransformerEncoderLayer(WIDTH, 2, 16, 0.0, batch_first=True)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return self.out(self.layer(self.into(x.flatten(2).transpose(1, 2)))).transpose(1, 2).reshape(x.shape)

    ours, own = Torch().eval().requires_grad_(False), Torch().eval().requires_grad_(False)
    spec = Spec("torch", (2, 4, 4), (), "epsilon", ScheduleSpec("linear"))
    x, time, _ = inputs()
    plain = own(x, time)
    perturb(ours, spec, ("layer.self_attn",))
    torch.testing.assert_close(ours(x, time, torch.zeros(3)), plain, atol=1e-6, rtol=0)
    attention = own.layer.self_attn
    v = nn.functional.linear(own.into(x.flatten(2).transpose(1, 2)), *(
        each.chunk(3)[2] for each in (attention.in_proj_weight, attention.in_proj_bias)
    ))  # fmt: skip
    own.layer.self_attn.forward = lambda *_, **__: (attention.out_proj(v), None)
    torch.testing.assert_close(ours(x, time, torch.ones(3)), own.train()(x, time), atol=1e-5, rtol=0)


def test_it_is_that_of_diffusers() -> None:
    """Compared with the processor of its pipelines, which perturbs the second half of the batch."""
    attention = pytest.importorskip("diffusers.models.attention_processor")
    from tests.families.tiny import randomize, stable_diffusion_unet

    theirs = randomize(stable_diffusion_unet()).requires_grad_(False)

    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = copy.deepcopy(theirs)

        def forward(self, x: Tensor, time: Tensor) -> Tensor:
            return self.network(x, time, torch.ones(x.shape[0], 5, 12)).sample

    ours = Text()
    spec = Spec("unet", (4, 8, 8), (), "epsilon", ScheduleSpec("linear"))
    perturb(ours, spec, ("mid_block", "down_blocks"))
    processors = {
        name: attention.PAGIdentitySelfAttnProcessor2_0()
        if "attn1" in name and name.startswith(("mid_block", "down_blocks"))
        else processor
        for name, processor in theirs.attn_processors.items()
    }
    theirs.set_attn_processor(processors)
    x, time = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([500.0, 500.0])
    twice = theirs(torch.cat([x, x]), torch.cat([time, time]), torch.ones(4, 5, 12)).sample
    for share, expected in enumerate(twice.chunk(2)):
        torch.testing.assert_close(ours(x, time, torch.full((2,), float(share))), expected, atol=1e-5, rtol=0)


def test_what_is_no_layer_is_refused_with_the_list_of_layers() -> None:
    with pytest.raises(UserError) as refused:
        rewritten("pag:blocks.1,encoder")
    assert refused.value.what == "pag encoder: Net has no such attention layer"
    assert refused.value.fix == "choose from blocks.0.own, blocks.1.own, middle, all"
    with pytest.raises(UserError, match="Tiny never calls torch's scaled_dot_product_attention"):
        apply_changes(source(Tiny()), (), (read_change("pag:middle"),))


def test_without_the_option_nothing_changes() -> None:
    plain = rewritten()
    assert apply_changes(plain, ()) is plain and "forward" not in vars(plain.module)
    assert rewritten("pag:middle").sha256 != plain.sha256


@pytest.mark.slow
def test_graphs_compute_what_the_module_does() -> None:
    source = rewritten("pag:all", blocks=1)
    traced = source.trace()
    assert {port.name for port in traced.graph.inputs} == {"x", "time", "text", "perturbed"}
    assert verify(source.spec, traced, prepare(traced.graph)).worst.relative < 1e-5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_block(tmp_path_factory.mktemp("net"), "pag:blocks.0")


@pytest.mark.slow
@pytest.mark.parametrize(("weight", "shares"), [(1.0, {"cond": 4.0, "perturbed": -3.0}),
                                                (2.5, {"cond": 5.5, "uncond": -1.5, "perturbed": -3.0})])  # fmt: skip
def test_pag_weighs_the_perturbed_branch(bundle: Path, weight: float, shares: dict[str, float]) -> None:
    """Like branches whose conditions the caller gives. diffusers weights the three outputs in this way."""
    text = inputs()[2][:2].numpy()
    own = {"perturbed": {"perturbed": [1.0, 1.0]}}
    with load(bundle) as sampler:
        found = sampler.sample("ddim:4", [0, 1], {"text": text}, Pag(3.0, weight))
        expected = sampler.sample("ddim:4", [0, 1], {"text": text}, Branches(shares), branches=own)
        plain = sampler.sample("ddim:4", [0, 1], {"text": text}, weight)
    np.testing.assert_array_equal(found, expected)
    assert np.abs(found - plain).max() > 0.01


def test_pag_is_baked(bundle: Path, tmp_path: Path) -> None:
    text, share = inputs()[2][:2].numpy(), np.zeros(2, np.float32)
    bake(BakeOptions(bundle, "ddim:3", tmp_path / "pag.onnx", guidance="2+pag:1.5"))
    with load(bundle) as sampler:
        expected = sampler.sample("ddim:3", [0, 1], {"text": text}, Pag(1.5, 2.0))
    np.testing.assert_array_equal(run_file(tmp_path / "pag.onnx", [0, 1], text=text, perturbed=share), expected)


def test_int8_is_calibrated_along_the_perturbed_branch(bundle: Path, tmp_path: Path) -> None:
    """Trajectories leave the caller's attention unchanged, and the command that made the body names the guidance."""
    copied = tmp_path / "bundle"
    shutil.copytree(bundle, copied)
    np.savez(tmp_path / "rows.npz", text=inputs()[2].numpy())
    result = calibrate(
        CalibrateOptions(copied, "ddim:2", (EXACT_TARGET,), 3, "pag:2", conditions=tmp_path / "rows.npz")
    )
    assert result.plan.guidance == Pag(2.0)
    assert [step.branches for step in result.plan.steps] == [("cond", "perturbed")] * 2
    assert " --guidance pag:2 " in open_bundle(copied).manifest.provenance.commands[-1] + " "
    condition = Condition("perturbed", "perturbed", (), "float32", low=0, high=1, default=(0.0,))
    assert draw_condition(condition, 0, 1_000_000) == 0
