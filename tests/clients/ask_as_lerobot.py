"""LeRobot's own robot client against a server: `python ask_as_lerobot.py PORT`, in an environment with LeRobot.

Its robot stands still, and records the actions that it is sent. Prints one line of JSON.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from lerobot.async_inference.configs import RobotClientConfig
from lerobot.async_inference.robot_client import RobotClient
from lerobot.robots import Robot, RobotConfig

MOTORS = [f"joint{number}.pos" for number in range(3)]
SENT: list[list[float]] = []


@RobotConfig.register_subclass("standing")
@dataclass
class StandingConfig(RobotConfig):
    camera: bool = False


class Standing(Robot):
    """A robot of three joints, of which two are driven, that does not move, with a picture if asked."""

    config_class, name = StandingConfig, "standing"

    def __init__(self, config: StandingConfig) -> None:
        super().__init__(config)
        self._camera = config.camera

    @property
    def observation_features(self) -> dict[str, Any]:
        return {**dict.fromkeys(MOTORS, float), **({"cam0": (48, 64, 3)} if self._camera else {})}

    @property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(MOTORS[:2], float)

    is_connected = is_calibrated = True

    def connect(self, calibrate: bool = True) -> None: ...

    def calibrate(self) -> None: ...

    def configure(self) -> None: ...

    def disconnect(self) -> None: ...

    def get_observation(self) -> dict[str, Any]:
        picture = {"cam0": np.full((48, 64, 3), 90, np.uint8)} if self._camera else {}
        return {**{name: 0.1 * place for place, name in enumerate(MOTORS)}, **picture}

    def send_action(self, action: dict[str, Any]) -> dict[str, Any]:
        SENT.append([*action.values()])
        return action


def main(port: str, seconds: float = 3.0) -> None:
    config = RobotClientConfig(
        policy_type="diffusion",
        pretrained_name_or_path="the-servers-own",
        robot=StandingConfig(camera=True),
        actions_per_chunk=8,
        server_address=f"127.0.0.1:{port}",
        task="stand",
        fps=20,
    )
    client = RobotClient(config)
    if not client.start():
        print(json.dumps({"started": False}))
        return
    receiving = threading.Thread(target=client.receive_actions, daemon=True)
    receiving.start()
    threading.Timer(seconds, client.shutdown_event.set).start()
    client.control_loop(task=config.task)
    client.stop()
    receiving.join(5)
    print(json.dumps({"started": True, "sent": SENT, "latest": client.latest_action}))


if __name__ == "__main__":
    began = time.time()
    main(*sys.argv[1:2])
