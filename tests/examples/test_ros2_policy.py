"""The ROS 2 node of docs/examples, on a double of rclpy: its topics, QoS, services and ticks."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fewstep.plans.errors import UserError
from fewstep.robots.control import PolicyRunner, Rhythm, Safety, VirtualClock
from tests.robots.control.tiny_policy import EXECUTED, ramp, tiny_policy

FILE = Path(__file__).parents[2] / "docs/examples/ros2_fewstep_policy/fewstep_policy/policy_node.py"
TICK = 0.05


class Message(SimpleNamespace):
    """Any message: its fields are those that it is made with."""


class Node:
    """A double of rclpy.node.Node with given parameters, whose clock the test moves."""

    given: dict[str, Any] = {}

    def __init__(self, name: str) -> None:
        self.name, self.seconds = name, 100.0
        self.subscriptions: dict[str, tuple[type, Any, Any]] = {}
        self.published: dict[str, list[Any]] = {}
        self.qos: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self.errors: list[str] = []
        self.timer: tuple[float, Any] | None = None

    def declare_parameter(self, name: str, value: Any) -> Any:
        return SimpleNamespace(value=self.given.get(name, value))

    def create_subscription(self, kind: type, topic: str, callback: Any, qos: Any) -> None:
        self.subscriptions[topic] = (kind, callback, qos)

    def create_publisher(self, kind: type, topic: str, qos: Any) -> Any:
        self.qos[topic] = qos
        sent = self.published.setdefault(topic, [])
        return SimpleNamespace(publish=lambda message: sent.append(message.data))

    def create_service(self, kind: type, name: str, callback: Any) -> None:
        self.services[name] = callback

    def create_timer(self, seconds: float, callback: Any) -> None:
        self.timer = (seconds, callback)

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=int(self.seconds * 1e9)))

    def get_logger(self) -> Any:
        return SimpleNamespace(error=lambda line, once=False: self.errors.append(line))


def module(monkeypatch: pytest.MonkeyPatch, name: str, **contents: Any) -> None:
    stub = ModuleType(name)
    stub.__dict__.update(contents)
    monkeypatch.setitem(sys.modules, name, stub)


@pytest.fixture
def node(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The node of the tiny policy, whose observation `state` has the node's name."""
    kinds = {
        name: type(name, (Message,), {}) for name in ("Image", "JointState", "Float32MultiArray", "String", "Trigger")
    }
    module(monkeypatch, "rclpy")
    module(monkeypatch, "rclpy.node", Node=Node)
    reliable = SimpleNamespace(RELIABLE="reliable")
    qos = {"QoSProfile": lambda **each: each, "ReliabilityPolicy": reliable, "qos_profile_sensor_data": "sensor"}
    module(monkeypatch, "rclpy.qos", **qos)
    for name in ("sensor_msgs", "std_msgs"):
        module(monkeypatch, name)
        module(monkeypatch, f"{name}.msg", **kinds)
    module(monkeypatch, "std_srvs")
    module(monkeypatch, "std_srvs.srv", **kinds)
    spec = importlib.util.spec_from_file_location("policy_node", FILE)
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    loaded.STATE = "state"  # type: ignore[attr-defined]
    monkeypatch.setattr(Node, "given", {"joints": ["a", "b"], "cameras": ["other:=/top"], "rate": 1 / TICK})
    clock = VirtualClock()

    def make_runner(given: dict[str, Any]) -> PolicyRunner:
        sampler = tiny_policy(tiny_bundle, ramp)
        return PolicyRunner(sampler, Rhythm(given["rate"], "ddim:1"), Safety(most_held=0), clock=clock)

    policy_node = loaded.PolicyNode(make_runner)
    policy_node.clock = clock
    return policy_node


def joints(*positions: float, names: tuple[str, ...] = ("b", "a")) -> Message:
    return Message(name=names, position=positions)


def tick(node: Any) -> None:
    assert node.timer is not None
    node.timer[1]()
    node.seconds += TICK
    node.clock.advance(TICK)


def begin(node: Any) -> Any:
    return node.services["~/start"](None, Message())


def test_topics_and_qos_are_those_that_are_stated(node: Any) -> None:
    assert {topic: (kind.__name__, qos) for topic, (kind, _, qos) in node.subscriptions.items()} == {
        "/joint_states": ("JointState", "sensor"),
        "/top": ("Image", "sensor"),
    }
    assert node.qos == {
        "~/action": {"depth": 1, "reliability": "reliable"},
        "~/problem": {"depth": 10, "reliability": "reliable"},
    }
    assert [*node.services] == ["~/start", "~/stop"] and node.timer is not None and node.timer[0] == TICK


def test_nothing_is_published_before_the_start_and_after_the_stop(node: Any) -> None:
    node.take_joints(joints(0.0, 0.0))
    tick(node)
    assert node.published["~/action"] == [] and begin(node).success
    tick(node)
    assert len(node.published["~/action"]) == 1
    answer = node.services["~/stop"](None, Message())
    assert answer.success and "ticks: 1" in answer.message
    tick(node)
    assert len(node.published["~/action"]) == 1


def test_an_action_is_published_at_each_tick(node: Any) -> None:
    begin(node)
    for _ in range(EXECUTED + 2):
        node.take_joints(joints(0.0, 0.0))
        tick(node)
    first = [round(100 * action[0]) for action in node.published["~/action"]]
    assert first == [0, 1, 2, 3, 0, 1] and node.published["~/problem"] == []


def test_joints_are_put_in_the_policys_order(node: Any) -> None:
    node.take_joints(joints(1.0, 2.0))
    assert node.observation()["state"].tolist() == [2.0, 1.0]
    node.take_joints(joints(5.0, names=("a",)))  # another arm's
    node.take_joints(Message(name=("a", "b"), position=(5.0,)))
    assert node.observation()["state"].tolist() == [2.0, 1.0]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_a_picture_is_taken_with_padded_rows(node: Any, encoding: str) -> None:
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    rows = np.zeros((2, 16), np.uint8)
    rows[:, :12] = (picture if encoding == "rgb8" else picture[..., ::-1]).reshape(2, 12)
    node.subscriptions["/top"][1](Message(encoding=encoding, width=4, height=2, step=16, data=rows.tobytes()))
    assert np.array_equal(node.observation()["other"], picture.transpose(2, 0, 1))
    node.subscriptions["/top"][1](Message(encoding="mono8", width=4, height=2, step=4, data=bytes(8)))
    assert "mono8" in node.errors[0]


@pytest.mark.parametrize(("step", "size"), [(12, 23), (12, 25), (5, 10), (0, 0)])
def test_a_picture_whose_bytes_do_not_fit_is_one_line(node: Any, step: int, size: int) -> None:
    node.take_picture("top", Message(encoding="rgb8", height=2, width=2, step=step, data=[0] * size))
    assert "top" not in node._latest and len(node.errors) == 1 and "bytes are not 2 rows" in node.errors[0]


def test_stale_measurements_are_rejected_and_the_problem_is_published_once(node: Any) -> None:
    begin(node)
    node.take_joints(joints(0.0, 0.0))
    tick(node)
    node.seconds += 10
    for _ in range(3):
        tick(node)
    assert node.observation()["state"] is None
    assert len(node.published["~/problem"]) == 1 and "state" in node.published["~/problem"][0]
    assert len(node.published["~/action"]) == 4


def test_an_observation_that_does_not_fit_stops_the_node_with_a_line(node: Any) -> None:
    begin(node)
    node.runner.act = lambda _: (_ for _ in ()).throw(UserError("one value has the shape [3]", "give 2"))
    tick(node)
    tick(node)
    assert node.errors == ["one value has the shape [3]; give 2"] and len(node.published["~/problem"]) == 1
