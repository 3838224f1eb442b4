"""A bundle of several networks: the network of each step, and refusals."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import sleep
from typing import Any
from weakref import WeakSet

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans.plan import DENOISER, Plan
from fewstep.plans.spec import PURE_NOISE
from fewstep.runtime.backends import Arrays, LoadedGraph, find_graph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.manifest import Condition, NetworkEntry
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling import feeds, network
from fewstep.runtime.sampling.lazy_graphs import GraphsInTurns, LazyGraph, Networks
from fewstep.runtime.sampling.request import denoiser_facts
from tests.bundles import change_bundle, with_manifest_fields
from tests.refusals import refuses

RUN: dict[str, Any] = {"seeds": [3, 5], "condition": {"class": ["dress", "bag"]}, "guidance": 2.0}
PLANS = ("ddim:6", "dpmpp_2m:5", "er_sde:4")


def with_expert(bundle: Path, **fields: Any) -> Path:
    """The tiny bundle with its own denoiser also as the network of the noisy steps."""
    manifest = open_bundle(bundle).manifest
    own = {"until": 0.0, "prediction": manifest.prediction, "inputs": {"class": "label"}, "bodies": manifest.bodies}
    own |= {"source": "tiny", "source_sha256": "0" * 64, "prologue": manifest.prologue}
    return change_bundle(bundle, networks={"noisy": NetworkEntry(**own | fields)})


@pytest.fixture
def single(tiny_bundle: Path) -> dict[tuple[str, str], np.ndarray]:
    """Return samples of the bundle before it has an expert, by precision and plan."""
    return {
        (precision, plan): fewstep.runtime.load(tiny_bundle, precision).sample(plan, **RUN)
        for precision in ("float32", "int8")
        for plan in PLANS
    }


@pytest.mark.parametrize("resident", [None, 1])
def test_two_experts_that_are_one_network_give_the_single_run(
    tiny_bundle: Path, single: dict[tuple[str, str], np.ndarray], resident: int | None
) -> None:
    with_expert(tiny_bundle)
    for (precision, plan), samples in single.items():
        sampler = fewstep.runtime.load(tiny_bundle, precision, resident=resident)
        assert {step.network for step in sampler.compile(plan, 2.0).steps} == {"noisy", DENOISER}
        np.testing.assert_array_equal(sampler.sample(plan, **RUN), samples)
    sampler = fewstep.runtime.load(tiny_bundle, "int8", resident=resident)
    each = sampler.sample_each(["ddim:6", "dpmpp_2m:5"], **RUN)
    np.testing.assert_array_equal(each, [single["int8", "ddim:6"][0], single["int8", "dpmpp_2m:5"][1]])


def test_a_plan_that_ran_before_is_recognised_by_each_network(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_expert(tiny_bundle)
    sampler, laid = fewstep.runtime.load(tiny_bundle), list[int]()
    plan = sampler.compile("ddim:6", 2.0)

    def plan_times(part: Plan, samples: int, *shape: tuple[int, ...]) -> tuple[Arrays, ...]:
        laid.append(len(part.steps))
        return feeds.plan_times(part, samples, *shape)

    monkeypatch.setattr(network, "plan_times", plan_times)
    first, second = (sampler.sample(plan, [3, 5], {"class": ["dress", "bag"]}) for _ in range(2))
    assert len(laid) == 2 and sum(laid) == 6
    np.testing.assert_array_equal(first, second)


def test_the_bare_network_is_that_of_its_time(tiny_bundle: Path) -> None:
    x, times = np.ones((2, 1, 4, 4), np.float32), [90.0, 5.0]
    before = fewstep.runtime.load(tiny_bundle).evaluate(x, times, {"class": [0, 1]})
    sampler = fewstep.runtime.load(with_expert(tiny_bundle))
    called: list[str] = []
    for name in ("noisy", DENOISER):
        sampler = watch_calls(sampler, name, called)
    np.testing.assert_array_equal(sampler.evaluate(x, times, {"class": [0, 1]}), before)
    assert called == ["noisy", DENOISER]


def test_one_call_has_one_number_of_outputs(tiny_bundle: Path) -> None:
    sampler = fewstep.runtime.load(with_expert(tiny_bundle))
    two = with_manifest_fields(sampler, "noisy", heads=2)
    with refuses(("1", "2 outputs"), "separate calls"):
        two.evaluate(np.ones((2, 1, 4, 4), np.float32), [90.0, 5.0], {"class": [0, 1]})


def watch_calls(sampler: fewstep.runtime.Sampler, name: str, called: list[str]) -> fewstep.runtime.Sampler:
    """Return a sampler that records each call of a network's graph."""
    own = sampler.network(name).graph
    return sampler.with_network_parts(name, graph=lambda feeds: called.append(name) or own(feeds))


class Counting(OnnxRuntime):
    """A backend that records which graphs it opens."""

    opened: list[str] = []

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        self.opened.append(f"{name} of {bundle.manifest.name}")
        return super().load(bundle, name)


def test_a_single_network_is_opened_when_its_bundle_is_loaded(tiny_bundle: Path) -> None:
    Counting.opened.clear()
    sampler = fewstep.runtime.load(tiny_bundle, backend=Counting())
    opened = [*Counting.opened]
    sampler.sample("ddim:4", **RUN)
    assert len(opened) == 2 and Counting.opened == opened  # its prologue and its body


def test_networks_are_opened_when_first_used_and_close_each_other(tiny_bundle: Path) -> None:
    with_expert(tiny_bundle)
    counts = {}
    for resident in (None, 1):
        Counting.opened.clear()
        sampler = fewstep.runtime.load(tiny_bundle, backend=Counting(), resident=resident)
        assert Counting.opened == []
        for _ in range(2):
            sampler.sample("ddim:4", **RUN)
        counts[resident] = len(Counting.opened)
    assert counts == {None: 3, 1: 6}  # the prologue of both networks, and the body of each
    with refuses("resident networks: 0", "from 1 up"):
        fewstep.runtime.load(tiny_bundle, resident=0)


@pytest.mark.parametrize(("file", "owners"), [(None, ["noisy", "noisy"]), ("other.onnx", ["noisy", DENOISER])])
def test_only_networks_with_the_same_prologue_share_it(tiny_bundle: Path, file: str | None, owners: list[str]) -> None:
    own = open_bundle(tiny_bundle).manifest.prologue
    assert own is not None
    if file is not None:
        change_bundle(tiny_bundle, {file: (tiny_bundle / own.file).read_bytes()})
    with_expert(tiny_bundle, prologue=msgspec.structs.replace(own, file=file or own.file))
    sampler = fewstep.runtime.load(tiny_bundle)
    prologues = [sampler.network(name).prologue for name in ("noisy", DENOISER)]
    assert [prologue.network for prologue in prologues if isinstance(prologue, LazyGraph)] == owners


class Graph:
    """A graph that can be counted."""

    def __call__(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return {}


class Slow(OnnxRuntime):
    """A backend whose graphs take a while to open."""

    opening: list[str] = []
    at_a_time: list[int] = []
    alive: "WeakSet[Graph]" = WeakSet()

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        self.opening.append(name)
        sleep(0.002)
        self.at_a_time.append(len(self.opening))
        self.opening.remove(name)
        self.alive.add(graph := Graph())
        return graph


@pytest.mark.parametrize("resident", [1, 2])
def test_threads_open_one_network_at_a_time_and_leave_as_many_as_may_be_resident(
    tiny_bundle: Path, resident: int
) -> None:
    Slow.at_a_time.clear()
    bundle, open_ones = open_bundle(tiny_bundle), Networks(resident)
    graphs = [LazyGraph(bundle, "float32", Slow(), name, open_ones) for name in "abc"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda place: graphs[place % 3]({}), range(48)))
    assert len(Slow.at_a_time) >= 3 and set(Slow.at_a_time) == {1}
    assert len(Slow.alive) == len(open_ones) == resident
    for graph in graphs:
        graph.close()
    assert not Slow.alive and not open_ones


def test_a_network_that_is_closed_leaves_the_others_open(tiny_bundle: Path) -> None:
    bundle, open_ones = open_bundle(tiny_bundle), Networks(1)
    used, other = (LazyGraph(bundle, "float32", Slow(), name, open_ones) for name in "ab")
    used({})
    other.close()
    assert list(open_ones) == ["a"]


def test_graphs_in_turns_leave_the_body_alone_in_memory(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[str]()
    real = OnnxRuntime.load

    def keep(self: OnnxRuntime, bundle: Bundle, name: str) -> LoadedGraph:
        opened.append(name)
        return real(self, bundle, name)

    monkeypatch.setattr(OnnxRuntime, "load", keep)
    expected = fewstep.runtime.load(tiny_bundle).sample("ddim:3", **RUN)
    opened.clear()
    backend = GraphsInTurns(OnnxRuntime())
    found = fewstep.runtime.load(tiny_bundle, backend=backend).sample("ddim:3", **RUN)
    np.testing.assert_array_equal(found, expected)
    body = open_bundle(tiny_bundle).manifest.bodies["float32"].graph.file
    assert opened == ["prologue", "float32"] and list(backend.opened) == [body]


class NamesFile(OnnxRuntime):
    """A backend whose graphs return one output, named after their file."""

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        file = find_graph(bundle, name).file
        return lambda _: {file: np.zeros(1, np.float32)}


def test_graphs_in_turns_tell_bodies_of_one_name_of_two_networks_apart(tiny_bundle: Path) -> None:
    bundle, turns = open_bundle(tiny_bundle), GraphsInTurns(NamesFile())
    (int8,) = (body for body in bundle.manifest.bodies.values() if body.precision == "int8")
    other = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, bodies={"float32": int8}))
    graphs = [turns.load(network, "float32") for network in (bundle, other, bundle)]
    assert [[*graph({})] for graph in graphs] == [["graphs/body.onnx"], [int8.graph.file], ["graphs/body.onnx"]]


def test_a_plan_belongs_to_the_networks_it_was_compiled_for(tiny_bundle: Path) -> None:
    before = fewstep.runtime.load(tiny_bundle).compile("ddim:4", 2.0)
    sampler = fewstep.runtime.load(with_expert(tiny_bundle))
    with refuses(("denoiser", "step 0", "noisy")):
        sampler.sample(before, **RUN)
    plan = sampler.compile("ddim:4", 2.0)
    np.testing.assert_array_equal(sampler.sample(plan, **RUN), sampler.sample("ddim:4", **RUN))


def test_a_network_for_pure_noise_alone_runs_one_step_earlier(
    tiny_bundle: Path, single: dict[tuple[str, str], np.ndarray]
) -> None:
    """One More Step: at pure noise a network that predicts x0 begins, whatever the denoiser predicts."""
    with_expert(tiny_bundle, until=PURE_NOISE, prediction="sample")
    sampler = fewstep.runtime.load(tiny_bundle)
    plan, usual = sampler.compile("ddim:4", 2.0), sampler.compile("ddim:4", 2.0, strength=1.0)
    assert [step.network for step in plan.steps] == ["noisy", *[DENOISER] * 4]
    assert plan.steps[0].lam is None and plan.steps[0].alpha == 0 and plan.steps[0].time == plan.steps[1].time
    first, second, *_ = sampler.steps(plan, **RUN)
    step = plan.steps[1]
    expected = step.alpha * first.x0 + step.sigma * first.u
    np.testing.assert_allclose(second.u, expected, rtol=1e-5, atol=1e-6)
    first, second, *_ = sampler.steps(sampler.compile("ddpm:4", 2.0), **RUN)
    expected = step.alpha * first.x0 + step.sigma * sampler.draws(RUN["seeds"])(1)  # the posterior at no signal
    np.testing.assert_allclose(second.u, expected, rtol=1e-5, atol=1e-6)
    assert all(step.network == DENOISER for step in usual.steps)  # an image to start from is no pure noise


def test_perturbed_attention_is_asked_of_every_network(tiny_bundle: Path) -> None:
    manifest = open_bundle(with_expert(tiny_bundle)).manifest
    flag = Condition("perturbed", "perturbed", (1,), "float32", null=0.0, default=(0.0,))
    half = msgspec.structs.replace(manifest, conditions=(*manifest.conditions, flag))
    inputs = {**half.networks["noisy"].inputs, "perturbed": "perturbed"}
    networks = {"noisy": msgspec.structs.replace(half.networks["noisy"], inputs=inputs)}
    assert not denoiser_facts(half).perturbed
    assert denoiser_facts(msgspec.structs.replace(half, networks=networks)).perturbed
