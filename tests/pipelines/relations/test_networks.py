"""A pipeline with one network for the noisy steps and one for the others."""

import json
from dataclasses import replace
from math import log
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils import _pytree as pytree

pytest.importorskip("diffusers")
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler, WanPipeline
from safetensors.torch import save_file

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.network_sources import load_sources, read_changes
from fewstep.export.sources.torch_module import TorchSource
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.loading import load_network
from fewstep.pipelines.recording.call_record import CallRecord, NetworkCall, SchedulerStep
from fewstep.pipelines.relations.networks import find_boundary, split_record
from fewstep.pipelines.source import load_diffusers_folder
from fewstep.plans.errors import UserError
from fewstep.runtime.sampling.loading import load
from tests.recorded_pipelines import CALLS, TEXT, TOKENS, wan_with_two_networks
from tests.refusals import refuses


@pytest.mark.slow
def test_each_network_runs_its_own_steps(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read = Folder(wan_with_two_networks(tmp_path / "wan"))
    source = load_diffusers_folder(read.path, CALLS["wan"])
    assert "samples of WanPipeline agree within" in caplog.text
    (expert,) = source.experts
    assert (expert.name, expert.until) == ("transformer", pytest.approx(log(0.125 / 0.875), abs=1e-5))
    x, time, text = torch.ones(1, 8, 2, 2, 2), torch.full((1,), 900.0), torch.ones(1, TOKENS, TEXT)
    noisy = expert.load().module  # type: ignore[attr-defined]
    assert (noisy(x, time, text) - source.module(x, time, text)).abs().max() > 0.1


@pytest.mark.slow
def test_a_lora_changes_the_network_that_the_user_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("peft")
    folder = wan_with_two_networks(tmp_path / "wan")
    generator, tensors = torch.Generator().manual_seed(0), {}
    for layer in ("to_q", "to_k"):
        for part, shape in (("lora_A", (4, 24)), ("lora_B", (24, 4))):
            key = f"transformer.blocks.0.attn1.{layer}.{part}.weight"
            tensors[key] = 0.3 * torch.randn(shape, generator=generator)
    save_file(tensors, tmp_path / "noisy.safetensors")
    read, others = {}, {}
    base = {name: load_network(folder / name)[0] for name in ("transformer", "transformer_2")}
    for name in base:
        call = tuple(f"{key}={value}" for key, value in CALLS["wan_with_two_networks"].items())
        file = f"{tmp_path / 'noisy.safetensors'}@{name}"
        options = ExportOptions(str(folder), tmp_path / "bundle", call=call, lora=(file,))
        quiet, noisy = load_sources(options, read_changes(options), ())
        own = {"transformer": noisy.module.network, "transformer_2": quiet.module.network}  # type: ignore[attr-defined]
        read[name] = own[name].state_dict()
        (other,) = base.keys() - {name}
        others[other] = own[other].state_dict()
    assert "the pipeline was compared without --lora, which changes the weights now" in caplog.text
    for name, network in base.items():
        weights = {weight: value.clone() for weight, value in network.state_dict().items()}
        assert all(torch.equal(weights[weight], value) for weight, value in others[name].items())
        pipe = WanPipeline(None, None, None, FlowMatchEulerDiscreteScheduler(), **base)
        pipe.load_lora_weights(dict(tensors), load_into_transformer_2=name == "transformer_2")
        pipe.fuse_lora(components=[name])
        pipe.unload_lora_weights()
        fused = network.state_dict()
        assert max(float((fused[weight] - weights[weight]).abs().max()) for weight in weights) > 0.1
        assert max(float((fused[weight] - read[name][weight]).abs().max()) for weight in weights) < 1e-6


@pytest.mark.slow
def test_a_file_that_does_not_fit_an_expert_is_refused_before_the_denoiser_is_exported(tmp_path: Path) -> None:
    folder = wan_with_two_networks(tmp_path / "wan")
    key = "diffusion_model.blocks.0.self_attn.q"
    save_file(
        {f"{key}.lora_A.weight": torch.ones(4, 23), f"{key}.lora_B.weight": torch.ones(24, 4)},
        tmp_path / "a.safetensors",
    )
    call = tuple(f"{name}={value}" for name, value in CALLS["wan_with_two_networks"].items())
    file = f"{tmp_path / 'a.safetensors'}@transformer"
    options = ExportOptions(str(folder), tmp_path / "bundle", call=call, lora=(file,))
    with refuses(("a.safetensors", key, "[24, 24]")):
        next(load_sources(options, read_changes(options), ()))
    options = replace(options, lora=(), lora_slots=("attn9@transformer",))
    with refuses("attn9"):
        next(load_sources(options, read_changes(options), ()))


def load_with_index(folder: Path, **fields: object) -> TorchSource:
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), **fields}))
    return load_diffusers_folder(folder, CALLS["wan"])


@pytest.mark.slow
def test_a_network_that_no_step_calls_is_left_out(tmp_path: Path) -> None:
    source = load_with_index(wan_with_two_networks(tmp_path / "wan"), boundary_ratio=None)
    assert source.experts == ()


def test_a_boundary_at_which_networks_do_not_change_is_refused() -> None:
    pipeline = SimpleNamespace(config={"boundary_ratio": 0.5}, scheduler=FlowMatchEulerDiscreteScheduler())
    record = CallRecord(
        tuple(replace(step, time=1000.0 - 300 * step.time) for step in steps(("a",), ("b",), ("b",)).steps)
    )
    assert find_boundary(
        "Pipe", SimpleNamespace(**{**vars(pipeline), "config": {"boundary_ratio": 0.9}}), [record], ["a", "b"]
    ) == pytest.approx(log(0.1 / 0.9), abs=1e-5)
    with refuses(("Pipe", "time 700", "boundary_ratio")):
        find_boundary("Pipe", pipeline, [record], ["a", "b"])


def test_a_step_at_the_boundary_is_noisy() -> None:
    pipeline = SimpleNamespace(config={"boundary_ratio": 0.5}, scheduler=FlowMatchEulerDiscreteScheduler())
    times = {"a": 500.0, "b": 499.0}
    record = CallRecord(
        tuple(replace(step, time=times[step.calls[0].component]) for step in steps(("a",), ("b",)).steps)
    )
    until = find_boundary("Pipe", pipeline, [record], ["a", "b"])
    assert until is not None and [log((1000 - time) / time) < until for time in times.values()] == [True, False]


def test_the_boundary_of_a_schedule_that_is_no_flow_is_at_its_lambda() -> None:
    scheduler = DDIMScheduler()
    pipeline = SimpleNamespace(config={"boundary_ratio": 0.5}, scheduler=scheduler)
    times = {"a": 500.0, "b": 499.0}
    record = CallRecord(
        tuple(replace(step, time=times[step.calls[0].component]) for step in steps(("a",), ("b",)).steps)
    )
    bar = float(scheduler.alphas_cumprod[500])
    until = find_boundary("Pipe", pipeline, [record], ["a", "b"])
    assert until == pytest.approx(0.5 * log(bar / (1 - bar)), abs=1e-4)


class Own(DDIMScheduler):
    """An unknown class."""


def test_the_boundary_of_an_unknown_scheduler_is_measured() -> None:
    scheduler = Own()
    scheduler.set_timesteps(10)
    record = CallRecord(tuple(replace(step, time=901.0 - 500 * step.time) for step in steps(("a",), ("b",)).steps))
    pipeline, bar = SimpleNamespace(config={"boundary_ratio": 0.5}, scheduler=scheduler), scheduler.alphas_cumprod[500]
    until = find_boundary("Pipe", pipeline, [record], ["a", "b"])
    assert until == pytest.approx(0.5 * log(bar / (1 - bar)), abs=1e-4)


def test_an_unknown_scheduler_whose_noise_cannot_be_measured_is_refused() -> None:
    config = SimpleNamespace(num_train_timesteps=1000, items=lambda: [("num_train_timesteps", 1000)])
    pipeline = SimpleNamespace(config={"boundary_ratio": 0.5}, scheduler=SimpleNamespace(config=config))
    record = CallRecord(tuple(replace(step, time=901.0 - 500 * step.time) for step in steps(("a",), ("b",)).steps))
    with pytest.raises(UserError, match="SimpleNamespace has no scale_noise or add_noise"):
        find_boundary("Pipe", pipeline, [record], ["a", "b"])


@pytest.mark.slow
def test_a_bundle_has_both_networks(tmp_path: Path) -> None:
    folder = wan_with_two_networks(tmp_path / "wan")
    call = tuple(f"{name}={value}" for name, value in CALLS["wan"].items())
    manifest = export(ExportOptions(str(folder), tmp_path / "bundle", call=call, verify="quick"))
    assert list(manifest.networks) == ["transformer"] and len(manifest.conditions) == 1
    sampler = load(tmp_path / "bundle")
    found = {step.time: step.network for step in sampler.compile("scheduler:4").steps}
    assert found == {time: "transformer" if time >= 875 else "denoiser" for time in found}
    assert set(found.values()) == {"transformer", "denoiser"}
    text = {"encoder_hidden_states": np.ones((1, TOKENS, TEXT), np.float32)}
    assert np.isfinite(sampler.sample("scheduler:4", seeds=[0], condition=text)).all()


def steps(*components: tuple[str, ...]) -> CallRecord:
    x = torch.zeros(1, 2)
    structure = pytree.tree_structure({})
    made = (tuple(NetworkCall(name, {}, structure, x) for name in names) for names in components)
    return CallRecord(tuple(SchedulerStep(calls, x, float(number), x, x) for number, calls in enumerate(made)))


def test_steps_are_those_of_the_network_that_they_call() -> None:
    parts = split_record("Pipe", steps(("a", "a"), ("b",), ("b",)))
    assert {name: [step.time for step in part.steps] for name, part in parts.items()} == {"a": [0.0], "b": [1.0, 2.0]}


@pytest.mark.parametrize(
    ("components", "says"),
    [
        ((("a", "b"), ("b",)), "Pipe calls 2 networks in one step: a, b"),
        ((("a",), ("b",), ("a",)), "Pipe calls a again after another network"),
    ],
)
def test_other_orders_are_refused(components: tuple[tuple[str, ...], ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        split_record("Pipe", steps(*components))
