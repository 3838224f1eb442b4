"""The server of lines: the actions of its runner, and one line for an invalid message."""

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fewstep.robots.serving import lines
from fewstep.robots.serving.line_server import serve_lines
from fewstep.robots.serving.listening import Listening
from tests.robots.control.looping_runner import looping
from tests.robots.control.tiny_policy import EXECUTED, HORIZON, SEEN

SEEN_ARRAYS = {name: np.array(value, np.float32) for name, value in SEEN.items()}


@pytest.fixture
def said() -> list[str]:
    """The lines that the server says."""
    return []


@pytest.fixture
def port(tiny_bundle: Path, said: list[str], request: pytest.FixtureRequest) -> Iterator[int]:
    """A server for two robots, or the number that a test gives, whose runner stops at the end of its sequence."""
    runner, _, _ = looping(tiny_bundle, most_held=0)
    token, robots = getattr(request, "param", (None, 2))
    with socket.create_server((lines.HOST, 0)) as listening:
        of = Listening(lines.HOST, 0, token)
        thread = threading.Thread(target=serve_lines, args=(runner, of, listening, said.append, robots), daemon=True)
        thread.start()
        yield listening.getsockname()[1]
        thread.join(10)


def test_a_robot_gets_the_actions_of_the_runner(port: int) -> None:
    for _ in range(2):  # the second robot begins another episode
        robot = lines.Robot(port)
        with pytest.raises(RuntimeError, match="no episode has begun; send a reset first"):
            robot.act(SEEN_ARRAYS)
        robot.reset(seed=3)
        answers = [robot.act(SEEN_ARRAYS) for _ in range(EXECUTED)]
        assert [round(100 * float(action[0])) for action, _ in answers] == [0, 1, 2, 3]
        assert [fields["age"] for _, fields in answers] == [0, 1, 2, 3]
        blind = [robot.act({"state": np.full(2, np.nan, np.float32)}) for _ in range(HORIZON - EXECUTED + 1)]
        action, fields = blind[-1]
        assert action is None and fields["source"] == "stopped" and "finite float32" in fields["problem"]
        action, fields = robot.act({"state": np.zeros(3, np.float32)})
        assert action is None and "'state': one value has the shape [3]" in fields["problem"]
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
        pytest.param(b"[" * 60000 + b"\n", id="deep"),
        b'{"arrays": [["state", "f4,(", [1]]]}\n',
        b'{"arrays": [["state", ",", [1]]]}\n',
        b'{"arrays": [["state", "float32", [0, 1000000000000000000000]]]}\n',
        b'{"arrays": [["state", "float32", [' + b"1," * 99 + b"1]]]}\n1234",
    ],
)
def test_what_is_no_message_ends_the_connection_alone(port: int, content: bytes, said: list[str]) -> None:
    with socket.create_connection((lines.HOST, port), timeout=10) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""
    robot = lines.Robot(port)
    robot.reset()
    assert robot.act(SEEN_ARRAYS)[0] is not None
    robot.close()
    assert len(said) == 1 and said[0].isprintable()


FRAMES, ROBOTS = 600, 5
SLOWEST = 5.0  # seconds until a frame's connection ends


def random_frame(rng: random.Random) -> bytes:
    """Bytes, a line of JSON of values that mean nothing here, or a message with some of its bytes changed."""
    values = [None, True, -1, 0, 3, 1e308, 10**30, "", "state", "float32", "O", "f4,(", [], [1], {}, "\x1b[2J\n", [[]]]
    kind, noise = rng.randrange(3), rng.randbytes(rng.randrange(64))
    if kind == 0:
        return noise
    if kind == 1:
        arrays = rng.choice([rng.choice(values), [rng.choices(values, k=rng.choice([2, 3, 3, 3]))]])
        fields = {rng.choice(["reset", "prompt", "arrays", "x"]): rng.choice(values) for _ in range(2)}
        return json.dumps(fields | {"arrays": arrays}).encode() + b"\n" + noise
    frame = bytearray(b'{"reset": 1, "arrays": []}\n{"arrays": [["state", "float32", [2]]]}\n' + bytes(8))
    for _ in range(rng.randrange(1, 4)):
        frame[rng.randrange(len(frame))] = rng.randrange(256)
    return bytes(frame)


@pytest.mark.parametrize(("port", "seed"), [((None, FRAMES + ROBOTS), seed) for seed in (1, 2, 3)], indirect=["port"])
def test_no_frame_ends_the_loop_of_the_robots(port: int, seed: int, said: list[str]) -> None:
    rng = random.Random(seed)
    for number in range(FRAMES):
        begun = time.monotonic()
        with socket.create_connection((lines.HOST, port), timeout=SLOWEST) as connection:
            connection.sendall(random_frame(rng))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(2**16):
                pass
        assert time.monotonic() - begun < SLOWEST
        assert len(said) <= number + 1
        if number % (FRAMES // ROBOTS) == 0:
            robot = lines.Robot(port)
            robot.reset()
            assert [round(100 * float(robot.act(SEEN_ARRAYS)[0][0])) for _ in range(2)] == [0, 1]
            robot.close()


def test_a_message_that_comes_byte_by_byte_ends_in_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "FIRST", 0.3)
    with socket.create_connection((lines.HOST, port), timeout=10) as connection, pytest.raises(ConnectionError):
        for _ in range(200):
            connection.sendall(b" ")
            time.sleep(0.05)
    monkeypatch.undo()
    robot = lines.Robot(port)
    robot.reset()
    robot.close()


@pytest.mark.parametrize("port", [(None, 5)], indirect=True)
def test_connections_that_say_nothing_keep_a_robot_waiting_for_their_first_message_alone(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "FIRST", 0.1)
    silent = [socket.create_connection((lines.HOST, port), timeout=10) for _ in range(4)]
    begun, robot = time.monotonic(), lines.Robot(port)
    robot.reset()
    assert time.monotonic() - begun < lines.SILENT / 2
    time.sleep(0.3)  # longer than the first message may take
    assert robot.act(SEEN_ARRAYS)[0] is not None
    for each in (robot, *silent):
        each.close()


TOKEN = "right-token-of-20-characters"


@pytest.mark.parametrize("port", [(TOKEN, 3)], indirect=True)
def test_a_robot_without_the_token_is_refused(port: int, said: list[str]) -> None:
    for token in (None, "wrong"):
        robot = lines.Robot(port, token=token)
        with pytest.raises(RuntimeError, match="the first message does not have the token"):
            robot.reset()
        robot.close()
    robot = lines.Robot(port, token=TOKEN)
    robot.reset()
    assert robot.act(SEEN_ARRAYS)[0] is not None
    robot.close()
    assert len(said) == 2
