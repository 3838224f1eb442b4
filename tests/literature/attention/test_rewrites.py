"""Negative texts, keys of another sample and images inside attention: by hand, and as graphs."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fewstep.export.batches import BATCH_LIMIT
from fewstep.export.changes import apply_changes, read_change
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.graph.cuts.prologue import PreparedDenoiser
from fewstep.graph.prepare import prepare
from fewstep.literature.attention.nasa import nasa
from fewstep.literature.attention.pag import pag
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Branches
from fewstep.plans.spec import ScheduleSpec
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Carried, Condition
from tests.export.verify_export import verify
from tests.literature.attention.networks import (
    SPEC,
    WIDTH,
    WORDS,
    Attention,
    Net,
    Text,
    export_block,
    inputs,
    rewritten,
)


def graphs(source: TorchSource) -> PreparedDenoiser:
    """Return the prepared graphs, after comparing them with the module."""
    traced = source.trace()
    prepared = prepare(traced.graph)
    assert verify(source.spec, traced, prepared).worst.relative < 1e-5
    return prepared


class Away(Attention):
    """Nguyen et al. 2024, equation 9: Z+ - a Z-, with the layer's own projections of the negative text."""

    def __init__(self, layer: Attention, negative: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.load_state_dict(layer.state_dict())
        self.negative, self.scale = negative, scale

    def forward(self, h: Tensor, seen: Tensor) -> Tensor:
        return super().forward(h, seen) - self.scale[:, None, None] * super().forward(h, self.negative)


def test_a_negative_text_is_subtracted_inside_of_cross_attention() -> None:
    x, time, text = inputs()
    negative = torch.randn(3, WORDS, WIDTH, generator=torch.Generator().manual_seed(2))
    scale = torch.tensor([0.2, 0.5, 0.0])
    source, own = rewritten("nasa:all"), Net()
    assert [condition.name for condition in source.spec.conditions] == ["text", "negative_text", "negative_scale"]
    encoded = negative + own.encoder(negative, negative)
    for block in own.blocks:
        block.words = Away(block.words, encoded, scale)
    torch.testing.assert_close(source.module(x, time, text, negative, scale), own(x, time, text), atol=1e-5, rtol=0)
    plain = source.module(x, time, text, negative, torch.zeros(3))
    torch.testing.assert_close(plain, Net()(x, time, text), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_keys_of_the_negative_text_leave_with_the_conditions() -> None:
    """One pass in place of two: the loop only gains attention to k' and v', not another network."""
    away = prepare(rewritten("nasa", blocks=1).trace().graph)
    ends, own, words, negative = 2, 3 + 2, 1 + 2, 2  # into and out; projections and the two products of attention
    assert Counter(node.op for node in away.body.nodes)["MatMul"] == ends + own + words + negative
    assert away.conditioner is not None or away.prologue is not None


def test_a_sample_attends_to_the_keys_and_values_of_another() -> None:
    """As if the source's tokens were those of the layer (Cao et al. 2023)."""
    x, time, text = inputs(4)
    source, own = rewritten("masactrl:blocks.1"), Net()
    places = torch.tensor([0, 1, 0, 3])  # of the source, before the sample
    layer = own.blocks[1].own
    alone = layer.forward
    layer.forward = lambda h, seen: alone(h, seen[torch.tensor([0, 0, 2, 0])])  # type: ignore[method-assign]
    torch.testing.assert_close(source.module(x, time, text, places), own(x, time, text), atol=1e-5, rtol=0)
    zeros = torch.zeros(4, dtype=torch.int64)
    torch.testing.assert_close(source.module(x, time, text, zeros), Net()(x, time, text), atol=1e-6, rtol=0)
    before_the_first = source.module(x, time, text, zeros + 63)
    torch.testing.assert_close(before_the_first, source.module(x, time, text, torch.arange(4)), atol=1e-6, rtol=0)


def test_carried_tensors_stand_after_the_conditions() -> None:
    class Carrying(Net):
        def forward(self, x: Tensor, time: Tensor, text: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return super().forward(x + past, time, text), x

    spec, (x, time, text) = msgspec.structs.replace(SPEC, carried=(Carried("past", (2, 4, 4)),)), inputs()
    module, own, past, away = Carrying(), Carrying(), torch.ones(3, 2, 4, 4), torch.ones(3, WORDS, WIDTH)
    _, taken = pag(*nasa(module, spec, "all"), "all")
    assert [condition.name for condition in taken.conditions[1:]] == ["negative_text", "negative_scale", "perturbed"]
    found, kept = module(x, time, text, away, torch.zeros(3), torch.zeros(3), past)
    torch.testing.assert_close(found, own(x, time, text, past)[0], atol=1e-6, rtol=0)
    steered, _ = module(x, time, text, away, torch.ones(3), torch.zeros(3), past)
    assert kept is x and (steered - found).abs().max() > 0.01


@pytest.mark.slow
def test_all_of_them_together_are_one_graph() -> None:
    prepared = graphs(rewritten("masactrl:blocks.0", "nasa:all", "pag:blocks.0", blocks=1))
    assert prepared.body is not None


@pytest.mark.slow
def test_a_branch_takes_over_at_a_step(tmp_path: Path) -> None:
    """In MasaCtrl the target attends to the source from a step on: the branch's weight begins there."""
    text = inputs()[2][:2].numpy()
    form = Branches({"cond": (1.0, 1.0, 0.0), "mutual": (0.0, 0.0, 1.0)})
    branches = {"mutual": {"source": [0, 1]}}
    with load(export_block(tmp_path, "masactrl")) as sampler:
        plan = sampler.compile("ddim:5", form)
        assert [step.branches for step in plan.steps] == [("cond",)] * 2 + [("mutual",)] * 3
        states = list(sampler.steps(plan, [0, 1], {"text": text}, branches=branches))
        own = list(sampler.steps("ddim:5", [0, 1], {"text": text}))
        always = sampler.sample("ddim:5", [0, 1], {"text": text, "source": [0, 1]})
    np.testing.assert_array_equal(states[1].x0, own[1].x0)
    np.testing.assert_allclose(states[-1].x0[0], own[-1].x0[0], atol=1e-5)  # the source
    assert np.abs(states[-1].x0[1] - own[-1].x0[1]).max() > 1e-3
    assert np.abs(states[-1].x0[1] - always[1]).max() > 1e-3


def test_each_change_is_of_the_module_as_it_was() -> None:
    """In any order, a change has the effect that it has alone: its calls are those of the network's own run."""
    x, time, text = inputs()
    away, one = torch.randn(3, WORDS, WIDTH, generator=torch.Generator().manual_seed(2)), torch.ones(3)
    first, last = rewritten("nasa", "pag:all"), rewritten("pag:all", "nasa")
    assert [condition.name for condition in first.spec.conditions[1:]] == [
        "negative_text",
        "negative_scale",
        "perturbed",
    ]
    assert [condition.name for condition in last.spec.conditions[1:]] == [
        "perturbed",
        "negative_text",
        "negative_scale",
    ]
    zero = torch.zeros(3)
    torch.testing.assert_close(
        first.module(x, time, text, away, one, zero), last.module(x, time, text, zero, away, one)
    )
    torch.testing.assert_close(
        first.module(x, time, text, away, zero, one), last.module(x, time, text, one, away, zero)
    )
    alone = rewritten("pag:all").module(x, time, text, one)
    torch.testing.assert_close(first.module(x, time, text, away, zero, one), alone, atol=1e-6, rtol=0)


CROSS, EMBEDDING, TOKENS = 12, 10, 4


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    """A UNet. Tests must not change it."""
    pytest.importorskip("diffusers")
    from tests.families.tiny import randomize, stable_diffusion_unet

    return randomize(stable_diffusion_unet()).requires_grad_(False)


@pytest.fixture(scope="module")
def tensors(unet: nn.Module) -> dict[str, Tensor]:
    """The keys of a published file: layers have the odd numbers in the order of diffusers' processors."""
    generator = torch.Generator().manual_seed(3)
    random = lambda *shape: torch.randn(*shape, generator=generator) / shape[-1] ** 0.5  # noqa: E731
    made = {
        "image_proj.proj.weight": random(TOKENS * CROSS, EMBEDDING),
        "image_proj.proj.bias": random(TOKENS * CROSS),
        "image_proj.norm.weight": 1 + random(CROSS),
        "image_proj.norm.bias": random(CROSS),
    }
    widths = [unet.get_submodule(name.removesuffix(".processor")).to_k.out_features for name in unet.attn_processors]
    for number, (name, width) in enumerate(zip(unet.attn_processors, widths, strict=True)):
        if "attn2" in name:
            made[f"ip_adapter.{number}.to_k_ip.weight"] = random(width, CROSS)
            made[f"ip_adapter.{number}.to_v_ip.weight"] = random(width, CROSS)
    return made


def add_adapter(unet: nn.Module, file: Path) -> TorchSource:
    takes = (Condition("text", "text", (5, CROSS), "float32", null=0.0),)
    spec = Spec("unet", (4, 8, 8), takes, "epsilon", ScheduleSpec("linear"))
    source = TorchSource(Text(copy.deepcopy(unet)), spec, "unet", "0" * 64, BATCH_LIMIT)
    return apply_changes(source, (), (read_change(f"ip_adapter:{file}"),))  # type: ignore[return-value]


@pytest.mark.slow
def test_an_ip_adapter_is_that_of_diffusers(unet: nn.Module, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "ip.safetensors")
    ours = add_adapter(unet, tmp_path / "ip.safetensors")
    by_part: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        by_part[part][rest] = tensor
    theirs = copy.deepcopy(unet)
    theirs._load_ip_adapter_weights([by_part], low_cpu_mem_usage=False)
    for name, processor in theirs.attn_processors.items():
        if hasattr(processor, "scale"):
            assert "attn2" in name
            processor.scale = [0.7]
    generator = torch.Generator().manual_seed(0)
    x, text, embeds = (torch.randn(2, *shape, generator=generator) for shape in ((4, 8, 8), (5, CROSS), (EMBEDDING,)))
    time = torch.tensor([500.0, 20.0])
    expected = theirs(x, time, text, added_cond_kwargs={"image_embeds": [embeds[:, None]]}).sample
    found = ours.module(x, time, text, embeds, torch.full((2,), 0.7))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    plain = Text(unet)(x, time, text)
    torch.testing.assert_close(ours.module(x, time, text, embeds, torch.zeros(2)), plain, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 0.01
    embedding, scale = ours.spec.conditions[1:]
    assert (embedding.name, embedding.shape, embedding.null) == ("image_embeds", (EMBEDDING,), 0)
    assert (scale.name, scale.default) == ("image_scale", (1.0,))
    graphs(ours)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("image_proj.norm.bias"), "has no image_proj.norm.bias"),
        (lambda t: t.update({"image_proj.latents": torch.zeros(1)}), "also has image_proj.latents"),
        (
            lambda t: [t.pop(key) for key in list(t) if key.startswith("ip_adapter.1.")],
            "the 4 cross-attention layers of Text",
        ),
    ],
)
def test_another_adapter_is_refused(
    unet: nn.Module, tensors: dict[str, Tensor], tmp_path: Path, change: Any, message: str
) -> None:
    broken = dict(tensors)
    change(broken)
    save_file(broken, tmp_path / "ip.safetensors")
    with pytest.raises(UserError, match=message):
        add_adapter(unet, tmp_path / "ip.safetensors")
    (tmp_path / "ip.bin").write_bytes(b"")
    with pytest.raises(UserError, match="ip.bin is not a safetensors file"):
        add_adapter(unet, tmp_path / "ip.bin")
