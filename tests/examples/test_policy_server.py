"""The example server: the actions of its runner, and one line for what is no message."""

import importlib.util
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.robots.control.looping import looping
from tests.robots.control.tiny_policy import EXECUTED, HORIZON, SEEN

SEEN_ARRAYS = {name: np.array(value, np.float32) for name, value in SEEN.items()}


@pytest.fixture
def server() -> ModuleType:
    path = Path(__file__).parents[2] / "docs/examples" / "policy_server.py"
    spec = importlib.util.spec_from_file_location("policy_server", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def port(server: ModuleType, tiny_bundle: Path) -> Iterator[int]:
    """A server for two robots, whose runner stops at once where its sequence ends."""
    runner, _, _ = looping(tiny_bundle, most_held=0)
    with socket.create_server((server.HOST, 0)) as listening:
        thread = threading.Thread(target=server.serve, args=(runner, listening, 2))
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_a_robot_gets_the_actions_of_the_runner(server: ModuleType, port: int) -> None:
    for _ in range(2):  # the second robot begins another episode
        robot = server.Robot(port)
        with pytest.raises(RuntimeError, match="no episode has begun; send a reset first"):
            robot.act(SEEN_ARRAYS)
        robot.reset(seed=3)
        answers = [robot.act(SEEN_ARRAYS) for _ in range(EXECUTED)]
        assert [round(100 * float(action[0])) for action, _ in answers] == [0, 1, 2, 3]
        assert [fields["age"] for _, fields in answers] == [0, 1, 2, 3]
        blind = [robot.act({"state": np.full(2, np.nan, np.float32)}) for _ in range(HORIZON - EXECUTED + 1)]
        action, fields = blind[-1]
        assert action is None and fields["source"] == "stopped" and "not finite" in fields["problem"]
        with pytest.raises(RuntimeError, match="state"):
            robot.act({"state": np.zeros(3, np.float32)})
        robot.close()


@pytest.mark.parametrize(
    "content",
    [
        b"[]\n",
        b"{",
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"arrays": [["state", "object", [1]]]}\n',
        b'{"arrays": [["state", "float32", [-1]]]}\n',
        b'{"arrays": [["state", "float32", [1000000000]]]}\n',
        b'{"arrays": [["state", "float32", [2]]]}\n1234',
        b'{"arrays": 5}\n',
        b"{}\n",
    ],
)
def test_what_is_no_message_ends_the_connection_alone(
    server: ModuleType, port: int, content: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.create_connection((server.HOST, port), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    robot = server.Robot(port)
    robot.reset()
    assert robot.act(SEEN_ARRAYS)[0] is not None
    robot.close()
    assert len(capfd.readouterr().err.splitlines()) == 1
