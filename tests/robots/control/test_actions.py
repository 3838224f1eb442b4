"""Observations in, actions out, on a tiny bundle that is described as a policy of 4 actions, of which one is past."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.robots.control import History, SequenceRequest, UnusableValue, sample_actions, sample_sequences
from fewstep.runtime import Sampler, UserError
from fewstep.runtime.bundle.manifest import Affine, Condition, Policy, TensorEntry
from fewstep.runtime.sampling import finite_checks
from tests.bundles import with_manifest_fields
from tests.refusals import refuses
from tests.robots.control.tiny_policy import tiny_policy

FIRST, SCALE, SHIFT = 1, 20.0, 5.0


@pytest.fixture
def policy(tiny_bundle: Path) -> Sampler:
    """The policy observes two readings of two numbers, which its network ignores."""
    rows = np.float32([[0.0], [0.1], [0.2], [0.3]])
    units = Affine((SCALE,) * 3, (SHIFT,) * 3)
    return tiny_policy(
        tiny_bundle, lambda x: np.broadcast_to(rows, x.shape), Policy(2, FIRST, 2), shape=(4, 3), units=units
    )


WINDOW = {"state": np.zeros((2, 2))}


def test_the_first_observation_stands_for_those_before_it(policy: Sampler) -> None:
    history = History(policy)
    history.add({"state": [1.0, 2.0]})
    assert history.window()["state"].tolist() == [[1, 2], [1, 2]]
    window = history.window()
    for number in (3.0, 4.0):
        history.add({"state": memoryview(np.full(2, number))})
    assert history.window()["state"].tolist() == [[3, 3], [4, 4]] and window["state"].tolist() == [[1, 2], [1, 2]]
    history.clear()
    with pytest.raises(UserError, match="nothing has been observed"):
        history.window()


def test_an_observation_is_kept_as_it_was(policy: Sampler) -> None:
    history, buffer = History(policy), np.zeros(2, np.float32)
    history.add({"state": buffer})
    buffer += 7
    assert history.window()["state"].max() == 0


class Learned:
    """A stand-in for a torch tensor that requires grad."""

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        raise RuntimeError("Can't call numpy() on Tensor that requires grad")


@pytest.mark.parametrize(
    ("observation", "kind", "named"),
    [
        (3, UserError, "observation 3 .*; give state"),
        ([0.0, 0.0], UserError, "not a mapping of names to values"),
        ({"stat": [1.0, 2.0]}, UserError, "no 'state'"),
        ({"state": [1.0, 2.0, 3.0]}, UserError, r"'state'.* \[3\]; give float32 .*\[2\]"),
        ({"state": [1.0, [2.0]]}, UserError, "'state' is not an array of numbers"),
        ({"state": Learned()}, UserError, "'state' .*requires grad"),
        *(
            ({"state": values}, UserError, "'state'.*; give float32")
            for values in (["a", "b"], [1j, 0.0], [True, False])
        ),
        ({"state": np.array(["2020", "2021"], "M8[Y]")}, UserError, "'state'.*; give float32"),
        (None, UnusableValue, "observation is None"),
        ({"state": None}, UnusableValue, "'state' holds None"),
        ({"state": [0.0, None]}, UnusableValue, "'state' holds None"),
        ({"state": np.array([0.0, None])}, UnusableValue, "'state' holds None"),
        ({"state": np.ma.masked_all(2)}, UnusableValue, "'state' holds masked values"),
        ({"state": [0.0, 1e300]}, UnusableValue, r"'state': 1e\+300 is not a finite float32"),
        ({"state": [0.0, -np.inf]}, UnusableValue, "'state': -inf is not a finite float32"),
    ],
)
def test_an_observation_that_cannot_be_is_named_and_unusable_where_its_form_is_right(
    policy: Sampler, observation: Any, kind: type[UserError], named: str
) -> None:
    history = History(policy)
    with pytest.raises(UserError, match=named) as failure:
        history.add(observation)
    assert type(failure.value) is kind
    with pytest.raises(UserError, match="nothing has been observed"):
        history.window()


def test_a_window_has_the_types_of_the_bundle(policy: Sampler) -> None:
    camera = Condition("camera", "camera", (2, 1, 2), "uint8", low=0, high=255)
    history = History(with_manifest_fields(policy, conditions=(*policy.bundle.manifest.conditions, camera)))
    history.add({"state": [1, 0.1], "camera": [[0, 255]]})
    window = history.window()
    assert {name: str(array.dtype) for name, array in window.items()} == {"state": "float32", "camera": "uint8"}
    assert window["state"].tolist() == [[1.0, np.float32(0.1)]] * 2 and window["camera"].max() == 255
    with pytest.raises(UnusableValue, match="'camera': 256 is not a whole number of type uint8"):
        history.add({"state": [1.0, 2.0], "camera": [[0, 256]]})
    with refuses(("'camera'", "0.5", "uint8")):
        history.add({"state": [1.0, 2.0], "camera": [[0.0, 0.5]]})


def test_a_condition_that_is_not_observed_at_each_tick_is_left_to_the_caller(policy: Sampler) -> None:
    task = Condition("task", "task", low=0, high=3)
    policy = with_manifest_fields(policy, conditions=(*policy.bundle.manifest.conditions, task))
    history = History(policy)
    history.add({"state": [1.0, 2.0], "temperature": 20.0})  # the robot measures more than the policy sees
    assert list(history.window()) == ["state"]
    assert sample_actions(policy, "ddim:2", {**history.window(), "task": np.array(2)}).shape == (3, 3)


def test_actions_start_now_and_are_in_units(policy: Sampler) -> None:
    actions = sample_actions(policy, policy.compile("ddim:2"), WINDOW)
    np.testing.assert_allclose(actions, SHIFT + SCALE * np.float32([[0.1] * 3, [0.2] * 3, [0.3] * 3]), rtol=1e-5)


def test_decided_actions_are_kept_and_the_others_are_new(policy: Sampler) -> None:
    decided = np.float32([[9.0, 4.0, 5.0]])
    actions = sample_actions(policy, "ddim:2", WINDOW, former=decided, decided=1)
    np.testing.assert_allclose(actions[0], decided[0], rtol=1e-5)
    np.testing.assert_allclose(actions[1:, 0], [SHIFT + SCALE * 0.2, SHIFT + SCALE * 0.3], rtol=1e-5)
    assert sample_actions(policy, "ddim:2", WINDOW, former=[])[0].tolist() == pytest.approx([SHIFT + SCALE * 0.1] * 3)


def test_a_former_sequence_that_cannot_be_is_one_line(policy: Sampler) -> None:
    former = np.zeros((3, 3))
    for wrong, decided, said in (
        ([[1.0, 2.0, 3.0], [1.0]], 0, "former actions are not an array of numbers"),
        (np.zeros((4, 3)), 0, r"former actions have the shape \[4, 3\].* at most 3"),
        (former * np.nan, 0, "former actions hold a number that is not finite"),
        (former, 4, "4 of 3 former actions are decided"),
        (former, True, "True of 3 former actions are decided"),
        (former, 1.5, "1.5 of 3 former actions are decided"),
        (None, 2, "2 actions are decided, but there is no previous"),
    ):
        with pytest.raises(UserError, match=said):
            sample_actions(policy, "ddim:2", WINDOW, former=wrong, decided=decided)
    with refuses("'glued'", "none, hard, trained"):
        sample_actions(policy, "ddim:2", WINDOW, former=former, continuity="glued")
    with refuses(("'trained'", "decided")):
        sample_actions(policy, "ddim:2", WINDOW, former=former, continuity="trained")
    with refuses("'image'", "without a strength"):
        sample_actions(policy, policy.compile("ddim:4", strength=0.5), WINDOW)


@pytest.mark.parametrize("option", ["renoise", "strength", "shaping"])
def test_what_is_compiled_into_a_plan_is_no_option_of_a_sequence(policy: Sampler, option: str) -> None:
    with pytest.raises(UserError, match=rf"no option '{option}'; .* sampler.compile\(plan, {option}=...\)"):
        sample_actions(policy, "ddim:2", WINDOW, **{option: 0.5})  # type: ignore[arg-type]


def test_decided_actions_of_the_former_sequence_are_held(policy: Sampler) -> None:
    policy, former = with_manifest_fields(policy, policy=Policy(2, 0, 1)), np.full((4, 3), SHIFT + SCALE, np.float32)
    hard = sample_actions(policy, "ddim:2", WINDOW, former=former, decided=1, continuity="hard")
    np.testing.assert_allclose((hard[:, 0] - SHIFT) / SCALE, [1.0, 0.1, 0.2, 0.3], atol=1e-5)
    default = sample_actions(policy, "ddim:2", WINDOW, former=former, decided=1)
    np.testing.assert_array_equal(default, hard)  # the network was not trained to continue
    none = sample_actions(policy, "ddim:2", WINDOW, former=former, decided=1, continuity="none")
    np.testing.assert_allclose((none[:, 0] - SHIFT) / SCALE, [0.0, 0.1, 0.2, 0.3], atol=1e-5)


def test_a_sequence_depends_on_its_own_request_alone(policy: Sampler) -> None:
    former = np.full((3, 3), SHIFT, np.float32)
    asked = [
        SequenceRequest(WINDOW, 0),
        SequenceRequest(WINDOW, 1, former, 2),
        SequenceRequest(WINDOW, 2, former[:2], 0),
    ]
    together, steps = sample_sequences(policy, "ddim:3", asked)
    alone = [sample_sequences(policy, "ddim:3", [each])[0][0] for each in asked]
    assert steps == 3 and np.array_equal(together, alone)


@pytest.mark.parametrize(
    ("former", "decided", "said"),
    [
        (np.zeros((3, 3)), -1, "-1 of 3 former actions are decided"),
        (np.zeros((3, 3)), 99, "99 of 3 former actions are decided"),
        (np.zeros((3, 1)), 1, r"former actions have the shape \[3, 1\]"),
        (None, 2, "2 actions are decided, but there is no previous"),
    ],
)
def test_a_request_that_cannot_be_is_one_line(policy: Sampler, former: Any, decided: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        sample_sequences(policy, "ddim:2", [SequenceRequest(WINDOW, 0), SequenceRequest(WINDOW, 1, former, decided)])


@pytest.mark.parametrize("other", [{}, {**WINDOW, "task": np.array(2)}])
def test_windows_of_different_names_are_refused(policy: Sampler, other: dict[str, Any]) -> None:
    with refuses(("windows 0 and 1 differ", "'task'" if other else "'state'"), "the same conditions"):
        sample_sequences(policy, "ddim:2", [SequenceRequest(WINDOW, 0), SequenceRequest(other, 1)])


def test_no_requests_are_refused(policy: Sampler) -> None:
    with refuses("no requests", "one or more"):
        sample_sequences(policy, "ddim:2", [])


@pytest.mark.parametrize("count", [1, 2])
def test_masked_observations_are_unusable(policy: Sampler, count: int) -> None:
    window = {"state": np.ma.masked_equal([[1.0, 2.0], [3.0, 4.0]], 3.0)}
    with pytest.raises(UnusableValue, match="'state' holds masked values"):
        sample_sequences(policy, "ddim:2", [SequenceRequest(window, seed) for seed in range(count)])


def test_actions_far_beyond_the_data_are_warned_of(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(finite_checks, "_WARNED", set())
    units = Affine((1.0,) * 3, (0.0,) * 3)
    far = tiny_policy(tiny_bundle, lambda x: np.full(x.shape, 21.0), Policy(2, 0, 1), shape=(4, 3), units=units)
    sample_actions(far, "ddim:2", WINDOW)
    assert "reach 21, far beyond usual data, which stay within 5" in caplog.text


def test_enough_is_a_sequence_of_fewer_steps(policy: Sampler) -> None:
    asked = [SequenceRequest(WINDOW, 0)]
    made, steps = sample_sequences(policy, "ddim:8", asked, enough=lambda: True)
    assert steps == 1
    np.testing.assert_allclose(made[0, :, 0], SHIFT + SCALE * np.float32([0.1, 0.2, 0.3]), rtol=1e-5)
    assert sample_sequences(policy, "ddim:8", asked, enough=lambda: False)[1] == 8


def test_discrete_actions_have_their_values_and_nothing_between(policy: Sampler) -> None:
    policy = with_manifest_fields(policy, policy=Policy(2, 0, 1, discrete={2: (0.0, 8.0, 30.0)}))
    former = np.full((4, 3), 30.0, np.float32)
    made = sample_actions(policy, "ddim:2", WINDOW, former=former, decided=1)
    np.testing.assert_allclose(made[:, 2], [30.0, 8.0, 8.0, 8.0])  # 5, 7, 9 and 11 without, and the first is decided


def test_decided_actions_are_given_to_a_network_that_was_trained_to_continue_them(policy: Sampler) -> None:
    ports = tuple(
        Condition(name, name, shape, "float32", default=(0.0,) * math.prod(shape))
        for name, shape in (("before", (4, 3)), ("decided", (1,)))
    )
    seen: list[dict[str, np.ndarray]] = []

    def network(feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds)
        return {"v": np.zeros_like(feeds["x"])}

    inputs = tuple(TensorEntry(port.name, "condition", ("batch", *port.shape), "float32") for port in ports)
    graph = msgspec.structs.replace(policy.body.graph, inputs=(*policy.body.graph.inputs, *inputs))
    trained = Policy(2, 0, 1, prefix="before", delay="decided", most_delay=2)
    policy = policy.with_network_parts(body=msgspec.structs.replace(policy.body, graphs=(graph,)), graph=network)
    policy = with_manifest_fields(policy, conditions=(*policy.bundle.manifest.conditions, *ports), policy=trained)
    assert trained.problem(policy.bundle.manifest) is None
    former = np.full((4, 3), SHIFT + SCALE, np.float32)
    for decided, stated in ((2, 2.0), (3, 0.0)):  # beyond what it was trained on they are held alone
        made = sample_actions(policy, "ddim:1", WINDOW, former=former, decided=decided, continuity="trained")
        assert seen[-1]["decided"].tolist() == [[stated]] and np.allclose(seen[-1]["before"], 1.0)
        np.testing.assert_allclose(made[:decided, 0], SHIFT + SCALE, rtol=1e-5)
    sample_actions(policy, "ddim:1", WINDOW, former=former, decided=2, continuity="hard")
    assert seen[-1]["decided"].tolist() == [[0.0]]  # "hard" does not tell it
    sample_actions(policy, "ddim:1", WINDOW, former=former, decided=2)
    assert seen[-1]["decided"].tolist() == [[2.0]]  # the default of a network that was trained so
    assert list(History(policy)._takes) == ["state"]


def test_a_policy_that_observes_nothing_of_that_length_has_no_history(policy: Sampler) -> None:
    with pytest.raises(UserError, match="no condition of 2147483648 observations"):
        History(with_manifest_fields(policy, policy=Policy(2**31, FIRST, 2)))


def test_a_bundle_that_is_no_policy_is_refused(tiny_bundle: Path) -> None:
    with pytest.raises(UserError, match="does not say how many observations it takes"):
        History(fewstep.runtime.load(tiny_bundle))
