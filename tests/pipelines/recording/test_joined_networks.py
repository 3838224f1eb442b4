"""The call of a second network, such as a ControlNet, is joined with that of the denoiser that takes its outputs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.recording.joined_networks import (
    JoinedNetwork,
    find_joint,
    join_calls,
    joins_alike,
    split_joined,
)
from fewstep.pipelines.recording.network_form import find_forms
from tests.refusals import refuses

X, MORE, TIME, PICTURE = torch.randn(2, 4, 3, 3), torch.randn(2, 1, 3, 3), torch.tensor([5.0, 5.0]), torch.ones(2, 3)
OUTPUTS = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)


def call_of(component: str, arguments: dict[str, Any], output: Tensor, *more: Tensor) -> NetworkCall:
    flat, structure = pytree.tree_flatten_with_path(arguments)
    return NetworkCall(component, {pytree.keystr(path): leaf for path, leaf in flat}, structure, output, more)


def record_of(*steps: tuple[NetworkCall, ...]) -> CallRecord:
    return CallRecord(tuple(SchedulerStep(calls, X, 5.0, X, X) for calls in steps))


def control_call(scale: float = 0.5) -> NetworkCall:
    return call_of("control", {"x": X, "time": TIME, "picture": PICTURE, "scale": scale}, *OUTPUTS)


def denoiser_call(x: Tensor = X, residuals: tuple[Tensor, ...] = OUTPUTS) -> NetworkCall:
    return call_of("unet", {"sample": x, "t": TIME, "residuals": list(residuals)}, torch.zeros_like(X))


def join(*calls: NetworkCall) -> NetworkCall:
    (call,) = join_calls("P", record_of(calls), {"control"}).steps[0].calls
    return call


class Control(nn.Module):
    def forward(self, x: Tensor, time: Tensor, picture: Tensor, scale: Tensor) -> list[Tensor]:
        return [scale * x + picture.mean(), scale * time[:, None, None, None] * x]


class Denoiser(nn.Module):
    def forward(self, sample: Tensor, t: Tensor, residuals: list[Tensor]) -> Tensor:
        return sample[:, :4] + 10 * residuals[0] + 100 * residuals[1]


def test_arguments_that_both_networks_get_are_those_of_the_denoiser() -> None:
    joined = join(control_call(), denoiser_call())
    assert joined.component == "unet" and joined.joint is not None
    assert joined.joint.shared == {
        "['inputs of control']['x']": ("['sample']", None),
        "['inputs of control']['time']": ("['t']", None),
    }
    assert joined.joint.fed == {"['residuals'][0]": 0, "['residuals'][1]": 1}


def test_a_number_of_the_second_network_is_one_for_each_row() -> None:
    assert join(control_call(0.5), denoiser_call()).leaves["['inputs of control']['scale']"].tolist() == [0.5, 0.5]


def test_the_joined_network_computes_what_both_do() -> None:
    joined = join(control_call(0.5), denoiser_call())
    assert joined.joint is not None
    network = JoinedNetwork(Denoiser(), Control(), joined.joint)
    residuals = Control()(X, TIME, PICTURE, torch.tensor(0.5))
    assert torch.equal(network(**joined.arguments), Denoiser()(X, TIME, residuals))


def test_a_second_network_may_get_the_first_channels_of_the_denoiser() -> None:
    sample = torch.cat([X, MORE], dim=1)
    joined = join(control_call(0.5), denoiser_call(sample))
    assert joined.joint is not None and joined.joint.shared["['inputs of control']['x']"] == ("['sample']", 4)
    residuals = Control()(X, TIME, PICTURE, torch.tensor(0.5))
    made = JoinedNetwork(Denoiser(), Control(), joined.joint)(**joined.arguments)
    assert torch.equal(made, Denoiser()(sample, TIME, residuals))


def test_the_networks_of_a_joined_one_have_their_components() -> None:
    joint = join(control_call(), denoiser_call()).joint
    assert joint is not None
    network, control = Denoiser(), Control()
    assert split_joined({"unet": JoinedNetwork(network, control, joint)}) == {"unet": network, "control": control}


def test_outputs_that_no_denoiser_takes_are_refused() -> None:
    with refuses("P passes the outputs of its network control to no denoiser unchanged"):
        join(control_call(), denoiser_call(residuals=(2 * OUTPUTS[0], 2 * OUTPUTS[1])))


def test_a_second_network_that_some_steps_leave_out_is_refused() -> None:
    zeros = (torch.zeros(1), torch.zeros(1))
    record = record_of((control_call(), denoiser_call()), (denoiser_call(residuals=zeros),))
    with refuses("P uses its network control in different ways in some steps", "--call guidance_scale=1"):
        find_joint("P", join_calls("P", record, {"control"}))


def test_a_recording_without_a_second_network_is_unchanged() -> None:
    record = record_of((denoiser_call(),))
    assert join_calls("P", record, ()) is record


def test_branches_that_share_a_call_of_the_second_network_are_not_joined_alike() -> None:
    text, own = torch.ones(2, 3), torch.zeros(2, 3)
    control = call_of("control", {"x": X, "text": text}, *OUTPUTS)
    calls = (
        call_of("unet", {"sample": X, "text": row, "residuals": list(OUTPUTS)}, torch.zeros_like(X))
        for row in (text, own)
    )
    assert not joins_alike(join_calls("P", record_of((control, *calls)), {"control"}))
    assert joins_alike(join_calls("P", record_of((control_call(), denoiser_call())), {"control"}))


def test_a_joined_call_with_more_channels_than_x_stays_joined() -> None:
    def record(seed: int) -> CallRecord:
        x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(seed))
        control = call_of("control", {"x": x, "time": TIME, "picture": PICTURE, "scale": 0.5}, *OUTPUTS)
        joined = join_calls("P", record_of((control, denoiser_call(torch.cat([x, MORE], dim=1)))), {"control"})
        return CallRecord(tuple(SchedulerStep(step.calls, x, 5.0, x, x) for step in joined.steps))

    base, other = record(0), record(1)
    form = next(find_forms("P", base, other))
    assert find_joint("P", form.rewrite("P", base)) == find_joint("P", base)


@pytest.mark.parametrize("scale", [0.7, 1 / 3])
def test_outputs_may_be_scaled_and_repeated_for_each_branch_and_used_in_later_steps(scale: float) -> None:
    adapter = call_of("control", {"picture": PICTURE[:1]}, *(output[:1] for output in OUTPUTS))
    residuals = tuple(torch.cat([scale * output[:1]] * 2) for output in OUTPUTS)
    record = record_of((adapter, denoiser_call(residuals=residuals)), (denoiser_call(residuals=residuals),))
    steps = join_calls("P", record, {"control"}).steps
    for step in steps:
        (call,) = step.calls
        assert call.joint is not None and call.joint.is_scaled
        assert call.leaves["['inputs of control']['picture']"].shape == (2, 3)
        weights = call.leaves["['inputs of control']['conditioning_scale']"].tolist()
        assert weights == pytest.approx([scale, scale], rel=1e-5)


class Adapter(nn.Module):
    def forward(self, picture: Tensor) -> list[Tensor]:
        return [picture[:, :1, None, None] * OUTPUTS[0], picture[:, 1:2, None, None] * OUTPUTS[1]]


def test_the_joined_network_scales_outputs_as_the_pipeline_does() -> None:
    outputs = Adapter()(PICTURE)
    joined = join(
        call_of("control", {"picture": PICTURE}, *outputs),
        denoiser_call(residuals=(0.7 * outputs[0], 0.7 * outputs[1])),
    )
    assert joined.joint is not None
    made = JoinedNetwork(Denoiser(), Adapter(), joined.joint)(**joined.arguments)
    assert torch.allclose(made, Denoiser()(X, TIME, [0.7 * output for output in outputs]))
