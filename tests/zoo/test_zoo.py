"""The denoisers on which calibration is judged: each is trained, and its graph equals its module."""

import sys
from functools import cache
from importlib.util import find_spec

import action_tokens
import numpy as np
import onnxruntime
import pytest
import torch
from denoising import Batch, draw_times, loss_of, problem
from safetensors import safe_open

from fewstep.export.sources.python_file import load_python_file
from fewstep.graph.files import io
from zoo.members import BY_NAME, FOLDER, MEMBERS, Member

LIMITS = {  # of the loss on samples made by code; random weights reach more than twice as much
    "dit_flow": 0.4,
    "policy_unet1d": 0.05,
    "speech_ncsn": 0.3,
    "unet_epsilon_linear": 0.25,
    "unet_edm_cifar": 0.3,
    "convnext_v_cosine": 0.35,
    "nafnet_residual": 0.04,
    "text_unet_flow": 0.2,
}
SAMPLES = 32
each = pytest.mark.parametrize(
    "member",
    [
        pytest.param(
            member,
            id=member.name,
            marks=pytest.mark.skipif(
                member.needs is not None and find_spec(member.needs) is None, reason=f"{member.needs} is not installed"
            ),
        )
        for member in MEMBERS
    ],
)


@cache
def batch(name: str) -> Batch:
    """Return samples like those of the member's training, made without a file: pictures are smooth shapes."""
    recipe = BY_NAME[name].recipe()
    generator = torch.Generator().manual_seed(2)
    is_restored = hasattr(recipe, "degraded")
    if hasattr(recipe, "drawn"):  # a piece of clothing has the widths of its class
        sides = torch.linspace(-1, 1, 14).abs()
        widths = torch.linspace(0.3, 0.9, 10)[:, None, None]
        pieces = 0.8 * ((sides[:, None] < widths.flip(0)) & (sides < widths))
        return recipe.drawn(pieces, torch.arange(10))(SAMPLES, generator)
    if len(recipe.SPEC.conditions[0].shape) > 0 and not is_restored:
        return recipe.DATA.open(None, "test")(SAMPLES, generator)
    channels, side, _ = recipe.SPEC.x_shape
    rows = torch.linspace(-1, 1, side)
    height, width = 0.5 + 0.4 * torch.rand(2, SAMPLES, 1, 1, generator=generator)
    inside = (rows[None, :, None].abs() < height) & (rows[None, None, :].abs() < width)
    if channels == 1:  # a piece of clothing: bright on black
        x0 = torch.where(inside, 0.4, -1.0)[:, None]
    else:  # a colour that changes slowly, before another one
        slope = torch.randn(2, SAMPLES, channels, 1, 1, generator=generator) * 0.25
        x0 = slope[0] * rows[:, None] + slope[1] * rows[None, :] + 0.3 * inside[:, None]
    if is_restored:
        return Batch(x0, (recipe.degraded(x0, generator),))
    return Batch(x0, (torch.arange(SAMPLES) % 10,))


@torch.no_grad()
def loss(member: Member, network: torch.nn.Module) -> float:
    generator = torch.Generator().manual_seed(0)
    return loss_of(member.recipe().SPEC, network, lambda *_: batch(member.name), SAMPLES, generator).item()


@each
def test_weights_are_small_float16_and_finite(member: Member) -> None:
    path = FOLDER / f"{member.name}.safetensors"
    assert path.stat().st_size <= 2_000_000
    with safe_open(path, "numpy") as tensors:
        values = [tensors.get_tensor(name) for name in tensors.keys()]  # noqa: SIM118 (safe_open is no mapping)
    assert sum(value.size for value in values) <= 1_000_000
    assert all(value.dtype == np.float16 and np.isfinite(value).all() for value in values)


@pytest.mark.slow
@each
def test_it_was_trained(member: Member) -> None:
    recipe, limit = member.recipe(), LIMITS[member.name]
    torch.manual_seed(0)
    random = recipe.make.network().eval()
    assert loss(member, recipe.make()[0]) < limit
    assert loss(member, random) > 2 * limit


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dit_flow", "convnext_v_cosine", "nafnet_residual"])  # families has the others' kinds
def test_its_graph_is_its_module(name: str) -> None:
    member = BY_NAME[name]
    traced = load_python_file(member.source).trace()
    spec = member.recipe().SPEC
    made, generator = batch(member.name), torch.Generator().manual_seed(1)
    times = draw_times(spec, SAMPLES, generator)
    asked = problem(spec, made, times, torch.randn(made.x0.shape, generator=generator))
    feeds = {"x": asked.x.numpy(), "time": np.array(times, np.float32)}
    feeds |= {condition.input: value.numpy() for condition, value in zip(spec.conditions, made.conditions, strict=True)}
    model = io.to_model(traced.graph).SerializeToString()
    (found,) = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)
    expected = traced.reference.output(feeds)
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    assert expected.std() > 0.1


@each
def test_rows_are_there_where_random_ones_are_no_data(member: Member) -> None:
    rows, spec = member.rows(3, seed=0), member.recipe().SPEC
    assert (rows is None) == (spec.towards is None and member.name != "text_unet_flow")
    if rows is not None:
        shapes = {name: value.shape for name, value in rows.items()}
        assert shapes == {condition.name: (3, *condition.shape) for condition in spec.conditions}
        assert not any(np.array_equal(value, rows[name]) for name, value in member.rows(3, seed=1).items())


def test_a_residual_leads_from_what_was_degraded_to_the_picture() -> None:
    """If noise has left nothing of x0, y and the output still give it."""
    member = BY_NAME["nafnet_residual"]
    made, spec = batch(member.name), member.recipe().SPEC
    asked = problem(spec, made, [14.0] * SAMPLES, torch.zeros(made.x0.shape))
    torch.testing.assert_close(made.conditions[0] - asked.answer, made.x0)
    assert asked.answer.square().mean() > 0.05


@pytest.fixture
def speech(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "speech", raising=False)
    import speech

    return speech


def test_chunks_are_one_pass_over_the_whole_series(speech) -> None:
    """With the shipped weights, a frame attends no further than the ring, whether the past is in the series or
    carried.
    """
    network = speech.make()[0].eval()
    x, vowels = speech.series(2, 5, torch.Generator().manual_seed(0))
    time, shapes = torch.tensor([200.0, 800.0]), [tensor.shape for tensor in speech.SPEC.carried]
    past, heard = (torch.zeros(2, *shape) for shape in shapes)
    with torch.no_grad():
        whole, chunks = network.whole(x, time, vowels), []
        for number, chunk in enumerate(x.split(speech.FRAMES, dim=2)):
            velocity, past, heard = network(chunk, time, vowels[:, number], past, heard)
            chunks.append(velocity)
        alone, *_ = network(x[:, :, -speech.FRAMES :], time, vowels[:, -1], *map(torch.zeros_like, (past, heard)))
    assert (torch.cat(chunks, dim=2) - whole).abs().max() < 1e-5
    assert (alone - chunks[-1]).abs().max() > 0.05  # the past is heard
    assert heard.min() == 1 and speech.loss(network, torch.Generator().manual_seed(5)) < 0.17  # 1.5 before training


def test_masks_open_the_mean_of_a_cosine_and_at_least_one():
    unknown = action_tokens.opened(torch.zeros(20_000, 2, 16, dtype=torch.long), torch.Generator().manual_seed(0))
    shares = unknown.float().mean((1, 2))
    assert abs(shares.mean() - 2 / torch.pi) < 0.01 and shares.min() == 1 / 32


def test_actions_are_in_the_middles_of_their_bins():
    made = action_tokens.demonstrations(100, torch.Generator().manual_seed(0))
    assert made.conditions[0].shape == (100, 1, 6)
    back = action_tokens.positions(action_tokens.tokens(made.x0))
    assert (back - made.x0).abs().max() <= 1.001 * action_tokens.REACH / action_tokens.BINS


def test_weights_are_small_and_of_the_recipe():
    network, spec = action_tokens.make()
    assert (FOLDER / "action_tokens.safetensors").stat().st_size <= 4e6
    ids = torch.full((2, *spec.x_shape), spec.vocabulary.mask)
    condition = torch.zeros(2, *spec.conditions[0].shape)
    assert network(ids, torch.zeros(2), condition).shape == (2, *spec.x_shape, spec.vocabulary.size)


def test_actions_were_learned():
    """Random weights have ln 128 = 4.9 nats for an open token."""
    network, _ = action_tokens.make()
    loss = action_tokens.loss(action_tokens.drawn, action_tokens.RECIPE.batch)
    assert loss(network, torch.Generator().manual_seed(5)).item() < 2.6
