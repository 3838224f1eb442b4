"""Latents and their tokens, as pipelines of diffusers pack them."""

import pytest
import torch
from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, SchedulerStep
from fewstep.pipelines.recording.element_map import ElementMap
from fewstep.pipelines.recording.packing import Packing, find_packing
from tests.refusals import refuses

diffusers = pytest.importorskip("diffusers")

LATENTS = torch.arange(2 * 4 * 6 * 10, dtype=torch.float32).reshape(2, 4, 6, 10)
PACKINGS = [
    Packing((4, 6, 10), (2, 2), True),
    Packing((4, 6, 10), (2, 2), False),
    Packing((4, 6, 10), (1, 1), True),
    Packing((4, 6, 10), (2, 1), False),
]


def map_to_latents(packing: Packing, shape: tuple[int, ...]) -> ElementMap:
    """Return the map of tokens to latents of a shape, from the tokens of numbered latents."""
    numbers = torch.arange(LATENTS[0].numel()).reshape(1, *packing.shape)
    order = packing.pack(numbers).flatten().argsort()
    return ElementMap(order, packing.tokens, shape)


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_tokens_are_unpacked_to_their_latents(packing: Packing) -> None:
    tokens = packing.pack(LATENTS)
    assert tuple(tokens.shape[1:]) == packing.tokens
    assert torch.equal(packing.unpack(tokens), LATENTS)


def test_tokens_of_flux_are_those_of_its_pipeline() -> None:
    expected = diffusers.FluxPipeline._pack_latents(LATENTS, 2, 4, 6, 10)
    assert torch.equal(Packing((4, 6, 10), (2, 2), True).pack(LATENTS), expected)


@pytest.mark.parametrize("packing", PACKINGS, ids=str)
def test_a_packing_is_found_from_the_places_of_latents(packing: Packing) -> None:
    assert find_packing(map_to_latents(packing, packing.shape)) == packing


def test_the_axis_of_a_single_frame_is_left_out() -> None:
    assert find_packing(map_to_latents(PACKINGS[0], (4, 1, 6, 10))) == PACKINGS[0]


def test_other_orders_are_no_packing() -> None:
    turned = map_to_latents(PACKINGS[0], PACKINGS[0].shape).order.flip(0)
    assert find_packing(ElementMap(turned, PACKINGS[0].tokens, PACKINGS[0].shape)) is None


def test_latents_of_other_sizes_and_channels_are_packed_alike() -> None:
    tokens = PACKINGS[1].pack(torch.cat([LATENTS, LATENTS], dim=3)[:, :2])
    assert tokens.shape == (2, 30, 8)
    assert torch.equal(PACKINGS[1].unpack(tokens, (6, 20))[..., :10], LATENTS[:, :2])


def record_of(tokens: Tensor) -> CallRecord:
    step = SchedulerStep((), tokens, 900.0, tokens + 1, tokens + 2)
    return CallRecord((step,), returned=(tokens + 2, "other"), noised=(tokens + 3,))


def test_what_a_scheduler_stepped_is_unpacked() -> None:
    packing = PACKINGS[0]
    unpacked = packing.unpack_record(record_of(packing.pack(LATENTS)))
    (step,) = unpacked.steps
    assert torch.equal(step.model_output, LATENTS) and torch.equal(step.sample, LATENTS + 1)
    assert torch.equal(step.result, LATENTS + 2) and torch.equal(unpacked.noised[0], LATENTS + 3)
    assert torch.equal(unpacked.returned[0], LATENTS + 2) and unpacked.returned[1] == "other"


def test_another_number_of_tokens_is_refused() -> None:
    with refuses("tokens [14, 16] are not latents [4, 6, 10]"):
        PACKINGS[0].unpack_record(record_of(torch.zeros(1, 14, 16)))
