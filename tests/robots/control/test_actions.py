"""Observations in, actions out, on a tiny bundle that is described as a policy of 4 actions, of which one is past."""

import math
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.robots.control import History, SequenceRequest, Unusable, sample_actions, sample_sequences
from fewstep.runtime import Sampler, UserError
from fewstep.runtime.bundle.manifest import Condition, Policy, TensorEntry

FIRST, SCALE, SHIFT = 1, 20.0, 5.0


@pytest.fixture
def sampler(tiny_bundle: Path) -> Sampler:
    path = tiny_bundle / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["policy"] = {"observations": 2, "first": 0, "actions": 1}
    manifest["units"] = {"scale": [SCALE] * 4, "shift": [SHIFT] * 4}
    path.write_bytes(msgspec.json.encode(manifest))
    return fewstep.runtime.load(tiny_bundle)


def seeing(sampler: Sampler) -> Sampler:
    """The same with a condition of two readings of two numbers, on a network that ignores them."""
    manifest = sampler.bundle.manifest
    conditions = (Condition("state", "state", (2, 2), "float32", typical=(0.0, 1.0)),)
    graph = msgspec.structs.replace(sampler.body.graph, inputs=sampler.body.graph.inputs[:1])
    manifest = msgspec.structs.replace(
        manifest,
        conditions=conditions,
        prologue=None,
        prediction="sample",
        x_shape=(4, 3),
        policy=Policy(2, FIRST, 2),
        units=msgspec.structs.replace(manifest.units, scale=(SCALE,) * 3, shift=(SHIFT,) * 3),
    )
    return sampler.changed(
        bundle=replace(sampler.bundle, manifest=manifest),
        body=msgspec.structs.replace(sampler.body, graphs=(graph,)),
        prologue=None,
        graph=lambda feeds: {"v": np.broadcast_to(np.float32([[0.0], [0.1], [0.2], [0.3]]), feeds["x"].shape)},
    )


def rhythm(sampler: Sampler, policy: Policy) -> Sampler:
    """The same policy in another rhythm."""
    manifest = msgspec.structs.replace(sampler.bundle.manifest, policy=policy)
    return sampler.changed(bundle=replace(sampler.bundle, manifest=manifest))


def test_the_first_observation_stands_for_those_before_it(sampler: Sampler) -> None:
    history = History(seeing(sampler))
    history.add({"state": [1.0, 2.0]})
    assert history.window()["state"].tolist() == [[1, 2], [1, 2]]
    window = history.window()
    for number in (3.0, 4.0):
        history.add({"state": [number, number]})
    assert history.window()["state"].tolist() == [[3, 3], [4, 4]] and window["state"].tolist() == [[1, 2], [1, 2]]
    history.clear()
    with pytest.raises(UserError, match="nothing has been observed"):
        history.window()


def test_an_observation_is_kept_as_it_was(sampler: Sampler) -> None:
    history, buffer = History(seeing(sampler)), np.zeros(2)
    history.add({"state": buffer})
    buffer += 7
    assert history.window()["state"].max() == 0


def test_what_is_missing_or_of_another_shape_is_named(sampler: Sampler) -> None:
    history = History(seeing(sampler))
    with pytest.raises(UserError, match="the observation has no 'state'"):
        history.add({"stat": [1.0, 2.0]})
    with pytest.raises(UserError, match=r"observation 'state' has the shape \[3\]; give float32 values \[2\]"):
        history.add({"state": [1.0, 2.0, 3.0]})
    with pytest.raises(UserError, match="observation 'state' is no array"):
        history.add({"state": [1.0, [2.0]]})


@pytest.mark.parametrize("values", [["a", "b"], [1j, 0.0], [True, False], np.array(["2020", "2021"], "M8[Y]")])
def test_values_of_another_kind_are_no_observation(sampler: Sampler, values: list[object]) -> None:
    history = History(seeing(sampler))
    with pytest.raises(UserError, match=r"observation 'state' holds values of type .*; give float32 values \[2\]"):
        history.add({"state": values})  # type: ignore[dict-item]
    with pytest.raises(UserError, match="the observation 3 is no mapping"):
        history.add(3)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nothing has been observed"):
        history.window()


def test_a_window_has_the_types_of_the_bundle(sampler: Sampler) -> None:
    policy = seeing(sampler)
    manifest = policy.bundle.manifest
    camera = Condition("camera", "camera", (2, 1, 2), "uint8", low=0, high=255)
    manifest = msgspec.structs.replace(manifest, conditions=(*manifest.conditions, camera))
    history = History(policy.changed(bundle=replace(policy.bundle, manifest=manifest)))
    history.add({"state": [1, 0.1], "camera": [[0, 255]]})
    window = history.window()
    assert {name: str(array.dtype) for name, array in window.items()} == {"state": "float32", "camera": "uint8"}
    assert window["state"].tolist() == [[1.0, np.float32(0.1)]] * 2 and window["camera"].max() == 255
    with pytest.raises(Unusable, match="observation 'camera' holds 256, which is not from 0 to 255"):
        history.add({"state": [1.0, 2.0], "camera": [[0, 256]]})
    with pytest.raises(UserError, match="observation 'camera' holds values of type float64"):
        history.add({"state": [1.0, 2.0], "camera": [[0.0, 0.5]]})


def test_a_condition_that_is_not_observed_at_each_tick_is_left_to_the_caller(sampler: Sampler) -> None:
    policy = seeing(sampler)
    manifest = policy.bundle.manifest
    task = Condition("task", "task", low=0, high=3)
    manifest = msgspec.structs.replace(manifest, conditions=(*manifest.conditions, task))
    policy = policy.changed(bundle=replace(policy.bundle, manifest=manifest))
    history = History(policy)
    history.add({"state": [1.0, 2.0], "temperature": 20.0})  # the robot measures more than the policy sees
    assert list(history.window()) == ["state"]
    assert sample_actions(policy, "ddim:2", {**history.window(), "task": np.array(2)}).shape == (3, 3)


def test_actions_start_now_and_are_in_units(sampler: Sampler) -> None:
    policy = seeing(sampler)
    actions = sample_actions(policy, policy.compile("ddim:2"), {"state": np.zeros((2, 2))})
    np.testing.assert_allclose(actions, SHIFT + SCALE * np.float32([[0.1] * 3, [0.2] * 3, [0.3] * 3]), rtol=1e-5)


def test_decided_actions_are_kept_and_the_others_are_new(sampler: Sampler) -> None:
    policy = seeing(sampler)
    window, decided = {"state": np.zeros((2, 2))}, np.float32([[9.0, 4.0, 5.0]])
    actions = sample_actions(policy, "ddim:2", window, former=decided, decided=1)
    np.testing.assert_allclose(actions[0], decided[0], rtol=1e-5)
    np.testing.assert_allclose(actions[1:, 0], [SHIFT + SCALE * 0.2, SHIFT + SCALE * 0.3], rtol=1e-5)
    assert sample_actions(policy, "ddim:2", window, former=[])[0].tolist() == pytest.approx([SHIFT + SCALE * 0.1] * 3)


def test_a_former_sequence_that_cannot_be_is_one_line(sampler: Sampler) -> None:
    policy, window, former = seeing(sampler), {"state": np.zeros((2, 2))}, np.zeros((3, 3))
    for wrong, decided, said in (
        ([[1.0, 2.0, 3.0], [1.0]], 0, "former actions are no array of numbers"),
        (np.zeros((4, 3)), 0, r"former actions have the shape \[4, 3\].* at most 3"),
        (former * np.nan, 0, "former actions hold a number that is not finite"),
        (former, 4, "4 actions are decided, of 3"),
        (None, 2, "2 actions are decided, of no former sequence"),
    ):
        with pytest.raises(UserError, match=said):
            sample_actions(policy, "ddim:2", window, former=wrong, decided=decided)
    with pytest.raises(UserError, match="continuity 'glued' is none; choose one of none, hard, trained"):
        sample_actions(policy, "ddim:2", window, former=former, continuity="glued")
    with pytest.raises(UserError, match="'trained' for a policy that takes no decided actions"):
        sample_actions(policy, "ddim:2", window, former=former, continuity="trained")
    with pytest.raises(UserError, match="starts from the former sequence, and there is none"):
        sample_actions(policy, policy.compile("ddim:4", strength=0.5), window)


@pytest.mark.parametrize("option", ["renoise", "strength", "shaping"])
def test_what_is_compiled_into_a_plan_is_no_option_of_a_sequence(sampler: Sampler, option: str) -> None:
    with pytest.raises(UserError, match=rf"no option '{option}'; .* sampler.compile\(plan, {option}=...\)"):
        sample_actions(seeing(sampler), "ddim:2", {"state": np.zeros((2, 2))}, **{option: 0.5})  # type: ignore[arg-type]


def test_decided_actions_of_the_former_sequence_are_held(sampler: Sampler) -> None:
    policy = rhythm(seeing(sampler), Policy(2, 0, 1))
    window, former = {"state": np.zeros((2, 2))}, np.full((4, 3), SHIFT + SCALE, np.float32)
    hard = sample_actions(policy, "ddim:2", window, former=former, decided=1, continuity="hard")
    np.testing.assert_allclose((hard[:, 0] - SHIFT) / SCALE, [1.0, 0.1, 0.2, 0.3], atol=1e-5)
    default = sample_actions(policy, "ddim:2", window, former=former, decided=1)
    np.testing.assert_array_equal(default, hard)  # the network was not trained to continue
    none = sample_actions(policy, "ddim:2", window, former=former, decided=1, continuity="none")
    np.testing.assert_allclose((none[:, 0] - SHIFT) / SCALE, [0.0, 0.1, 0.2, 0.3], atol=1e-5)


def test_a_warm_start_begins_with_the_former_sequence_and_its_last_action(sampler: Sampler) -> None:
    seen: list[np.ndarray] = []

    def watching(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds["x"].copy())
        return {"v": np.zeros_like(feeds["x"])}

    policy = rhythm(seeing(sampler), Policy(2, 0, 1)).changed(graph=watching)
    former = SHIFT + SCALE * np.float32([[0.1] * 3, [0.4] * 3])
    plan = policy.compile("ddim:4", strength=0.5, renoise=0.0)
    sample_actions(policy, plan, {"state": np.zeros((2, 2))}, former=former, continuity="none")
    np.testing.assert_allclose(seen[0][0, :, 0], [0.1, 0.4, 0.4, 0.4], atol=1e-5)


def test_a_sequence_depends_on_its_own_request_alone(sampler: Sampler) -> None:
    policy, former = seeing(sampler), np.full((3, 3), SHIFT, np.float32)
    asked = [
        SequenceRequest({"state": np.zeros((2, 2))}, 0),
        SequenceRequest({"state": np.zeros((2, 2))}, 1, former, 2),
        SequenceRequest({"state": np.zeros((2, 2))}, 2, former[:2], 0),
    ]
    together, steps = sample_sequences(policy, "ddim:3", asked)
    alone = [sample_sequences(policy, "ddim:3", [each])[0][0] for each in asked]
    assert steps == 3 and np.array_equal(together, alone)


def test_enough_is_a_sequence_of_fewer_steps(sampler: Sampler) -> None:
    policy, asked = seeing(sampler), [SequenceRequest({"state": np.zeros((2, 2))}, 0)]
    made, steps = sample_sequences(policy, "ddim:8", asked, enough=lambda: True)
    assert steps == 1
    np.testing.assert_allclose(made[0, :, 0], SHIFT + SCALE * np.float32([0.1, 0.2, 0.3]), rtol=1e-5)
    assert sample_sequences(policy, "ddim:8", asked, enough=lambda: False)[1] == 8


def test_discrete_actions_have_their_values_and_nothing_between(sampler: Sampler) -> None:
    policy = rhythm(seeing(sampler), Policy(2, 0, 1, discrete={2: (0.0, 8.0, 30.0)}))
    former = np.full((4, 3), 30.0, np.float32)
    made = sample_actions(policy, "ddim:2", {"state": np.zeros((2, 2))}, former=former, decided=1)
    np.testing.assert_allclose(made[:, 2], [30.0, 8.0, 8.0, 8.0])  # 5, 7, 9 and 11 without, and the first is decided


def test_decided_actions_are_given_to_a_network_that_was_trained_to_continue_them(sampler: Sampler) -> None:
    policy = seeing(sampler)
    manifest = policy.bundle.manifest
    ports = tuple(
        Condition(name, name, shape, "float32", default=(0.0,) * math.prod(shape))
        for name, shape in (("before", (4, 3)), ("decided", (1,)))
    )
    seen: list[dict[str, np.ndarray]] = []

    def network(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds)
        return {"v": np.zeros_like(feeds["x"])}

    inputs = tuple(TensorEntry(each.name, "condition", ("batch", *each.shape), "float32") for each in ports)
    graph = msgspec.structs.replace(policy.body.graph, inputs=(*policy.body.graph.inputs, *inputs))
    rhythm_ = Policy(2, 0, 1, prefix="before", delay="decided", most_delay=2)
    manifest = msgspec.structs.replace(manifest, conditions=(*manifest.conditions, *ports), policy=rhythm_)
    body = msgspec.structs.replace(policy.body, graphs=(graph,))
    policy = policy.changed(bundle=replace(policy.bundle, manifest=manifest), body=body, graph=network)
    assert rhythm_.problem(manifest) is None
    window, former = {"state": np.zeros((2, 2))}, np.full((4, 3), SHIFT + SCALE, np.float32)
    for decided, told in ((2, 2.0), (3, 0.0)):  # beyond what it was trained on they are held alone
        made = sample_actions(policy, "ddim:1", window, former=former, decided=decided, continuity="trained")
        assert seen[-1]["decided"].tolist() == [[told]] and np.allclose(seen[-1]["before"], 1.0)
        np.testing.assert_allclose(made[:decided, 0], SHIFT + SCALE, rtol=1e-5)
    sample_actions(policy, "ddim:1", window, former=former, decided=2, continuity="hard")
    assert seen[-1]["decided"].tolist() == [[0.0]]  # "hard" does not tell it
    sample_actions(policy, "ddim:1", window, former=former, decided=2)
    assert seen[-1]["decided"].tolist() == [[2.0]]  # the default of a network that was trained so
    assert list(History(policy)._takes) == ["state"]


def test_a_policy_that_observes_nothing_of_that_length_has_no_history(sampler: Sampler) -> None:
    policy = seeing(sampler)
    manifest = msgspec.structs.replace(policy.bundle.manifest, policy=Policy(2**31, FIRST, 2))
    with pytest.raises(UserError, match="no condition of 2147483648 observations"):
        History(policy.changed(bundle=replace(policy.bundle, manifest=manifest)))


def test_a_bundle_that_is_no_policy_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="does not say how many observations it takes"):
        History(fewstep.runtime.load(tiny_bundle))
