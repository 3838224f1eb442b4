"""A ROS 2 node that runs a policy: it takes the latest joints and pictures, and publishes an action at each tick.

    colcon build --packages-select fewstep_policy
    ros2 run fewstep_policy policy_node --ros-args --params-file policy.yaml

The parameters are those of `PARAMETERS`. `joints` are the names of the joints of `observation.state`, in order. A
camera is CONDITION:=TOPIC, such as `observation.images.top:=/top/image_raw`.

| | name | type | QoS |
|---|---|---|---|
| takes | `/joint_states` | sensor_msgs/JointState | sensor data: best effort, the last five |
| takes | the topic of each camera | sensor_msgs/Image, rgb8 or bgr8 | sensor data: best effort, the last five |
| gives | `~/action` | std_msgs/Float32MultiArray | reliable, the last one |
| gives | `~/problem` | std_msgs/String, when the problem of the actions changes | reliable, the last ten |
| serves | `~/start`, `~/stop` | std_srvs/Trigger: begin an episode; publish no more actions | of services |

Nothing is published before `~/start`, or while the runner has nothing to send. A measurement that is older than `stale`
seconds is not used: the observation of this tick is rejected, and the current sequence continues. The callbacks run in
one thread, that of the default executor.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy, qos_profile_sensor_data
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float32MultiArray, String
from std_srvs.srv import Trigger

from fewstep.plans.errors import UserError
from fewstep.robots.control import PolicyRunner, Rhythm, Safety
from fewstep.runtime import load
from fewstep.runtime.text import load_text_encoder

STATE = "observation.state"
PARAMETERS = {
    "bundle": "",
    "rate": 20.0,
    "plan": "ddim:4",
    "precision": "float32",
    "joints": [""],
    "cameras": [""],
    "prompt": "",
    "most_held": 0,
    "stale": 0.5,
    "seed": 0,
}
LATEST = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
LAST_TEN = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)


class PolicyNode(Node):
    """The node. `make_runner` is called with its parameters."""

    def __init__(self, make_runner: Callable[[dict[str, Any]], PolicyRunner]) -> None:
        super().__init__("fewstep_policy")
        given = {name: self.declare_parameter(name, value).value for name, value in PARAMETERS.items()}
        self._joints = [name for name in given["joints"] if name]
        self._stale, self._prompt, self._seed = given["stale"], given["prompt"] or None, given["seed"]
        self._latest: dict[str, tuple[float, Any]] = {}  # by condition: when it came, and its value
        self._runs, self._problem = False, None
        self.runner = make_runner(given)
        if self._joints:
            self.create_subscription(JointState, "/joint_states", self.take_joints, qos_profile_sensor_data)
        self._names = [STATE] if self._joints else []
        for camera in filter(None, given["cameras"]):
            name, _, topic = camera.partition(":=")
            self._names.append(name)
            self.create_subscription(Image, topic, partial(self.take_picture, name), qos_profile_sensor_data)
        self._actions = self.create_publisher(Float32MultiArray, "~/action", LATEST)
        self._problems = self.create_publisher(String, "~/problem", LAST_TEN)
        self.create_service(Trigger, "~/start", self.start)
        self.create_service(Trigger, "~/stop", self.stop)
        self.create_timer(1 / given["rate"], self.tick)

    def take_joints(self, message: JointState) -> None:
        """Take the positions of the named joints. A message without one of them is ignored, as of another arm."""
        places = {name: place for place, name in enumerate(message.name)}
        if all(name in places and places[name] < len(message.position) for name in self._joints):
            values = np.array([message.position[places[name]] for name in self._joints], np.float32)
            self._latest[STATE] = self._now(), values

    def take_picture(self, name: str, image: Image) -> None:
        """Take a picture as [3, H, W]."""
        if image.encoding not in ("rgb8", "bgr8"):
            self.get_logger().error(f"{name}: encoding {image.encoding} is not rgb8 or bgr8", once=True)
            return
        if image.step < 3 * image.width or len(image.data) != image.height * image.step:
            size = f"{image.height} rows of {image.step} bytes and {image.width} pixels"
            self.get_logger().error(f"{name}: {len(image.data)} bytes are not {size}", once=True)
            return
        rows = np.frombuffer(bytes(image.data), np.uint8).reshape(image.height, image.step)
        picture = rows[:, : 3 * image.width].reshape(image.height, image.width, 3)
        picture = picture[..., ::-1] if image.encoding == "bgr8" else picture
        self._latest[name] = self._now(), np.ascontiguousarray(picture.transpose(2, 0, 1))

    def observation(self) -> dict[str, Any]:
        """Return the latest measurements; None for those that are missing or stale, which the runner rejects."""
        oldest = self._now() - self._stale
        came = {name: self._latest.get(name, (-np.inf, None)) for name in self._names}
        return {name: value if when >= oldest else None for name, (when, value) in came.items()}

    def start(self, request: Any, response: Any) -> Any:
        """Begin an episode."""
        try:
            self.runner.reset(self._seed, prompt=self._prompt)
            self._seed, self._runs = self._seed + 1, True
            response.success, response.message = True, "an episode has begun"
        except UserError as error:
            response.success, response.message = False, str(error)
        return response

    def stop(self, request: Any, response: Any) -> Any:
        """Stop publishing actions until the next start."""
        self._runs = False
        response.success, response.message = True, str(self.runner.statistics)
        return response

    def tick(self) -> None:
        """Publish the action of a tick."""
        if not self._runs:
            return
        try:
            action = self.runner.act(self.observation())
        except UserError as error:  # the first observation does not fit the policy
            self._runs = False
            self._problems.publish(String(data=f"stopped: {error}"))
            self.get_logger().error(str(error))
            return
        if action.problem != self._problem:
            self._problem = action.problem
            self._problems.publish(String(data=action.problem or ""))
        if action.value is not None:
            self._actions.publish(Float32MultiArray(data=action.value.ravel().tolist()))

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9


def open_runner(given: dict[str, Any]) -> PolicyRunner:
    """Load the policy of the parameters. The first calls after `~/start` are slow, since nothing was observed yet."""
    sampler = load(given["bundle"], given["precision"])
    text = None if sampler.bundle.manifest.text is None else load_text_encoder(sampler.bundle)
    return PolicyRunner(sampler, Rhythm(given["rate"], given["plan"]), Safety(most_held=given["most_held"]), text=text)


def main() -> None:
    rclpy.init()
    try:
        node = PolicyNode(open_runner)
        try:
            rclpy.spin(node)
        finally:
            node.runner.close()
            node.destroy_node()
    except UserError as error:
        raise SystemExit(f"policy_node: {error}") from None
    except KeyboardInterrupt:
        pass
    finally:
        if rclpy.ok():
            rclpy.shutdown()


if __name__ == "__main__":
    main()
