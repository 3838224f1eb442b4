"""The servers on their real transports: slots, tokens, and clients that misbehave while another robot is served.

They need the extra `serve`. The clients of openpi and LeRobot are run by .ci/clients.
"""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.robots.serving.lerobot import SERVICE, write_actions
from fewstep.robots.serving.listening import Listening
from fewstep.robots.serving.pickles import read_pickle
from fewstep.robots.serving.serve import Server
from fewstep.robots.serving.served_policy import ServedPolicy
from tests.robots.serving.served import STATE, instructions, make_policy, observation
from tests.robots.serving.test_openpi import decode_answer, message

pytest.importorskip("websockets")
pytest.importorskip("grpc")

JOINTS = {"a.pos": 0.5, "b.pos": -0.5}
TOKEN = "0123456789abcdef"
HOST = "127.0.0.1"


@contextmanager
def running(make: Callable[[ThreadPoolExecutor, list[str]], Server]) -> Iterator[tuple[int, list[str]]]:
    """Run a server in a thread, and yield its port and what it says. It must end after its stop event is set."""
    said: list[str] = []
    begun, ports, parts = threading.Event(), list[int](), dict[str, Any]()

    async def run(server: Server) -> None:
        parts["stop"], parts["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await server.run(parts["stop"], lambda port: (ports.append(port), begun.set()))  # type: ignore[func-returns-value]

    with ThreadPoolExecutor(1) as worker:
        thread = threading.Thread(target=lambda: asyncio.run(run(make(worker, said))), daemon=True)
        thread.start()
        assert begun.wait(10)
        yield ports[0], said
        parts["loop"].call_soon_threadsafe(parts["stop"].set)
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def of_openpi(bundle: Path, token: str | None = None, robots: int = 1) -> Iterator[tuple[int, list[str]]]:
    from fewstep.robots.serving.websocket import WebSocketServer

    listening = Listening(HOST, 0, token, robots)
    with running(lambda worker, said: WebSocketServer(make_policy(bundle), listening, worker, said.append)) as there:
        yield there


@contextmanager
def of_lerobot(bundle: Path, robots: int = 1, policy: ServedPolicy | None = None) -> Iterator[tuple[int, list[str]]]:
    from fewstep.robots.serving.grpc_server import GrpcServer

    listening, own = Listening(HOST, 0, None, robots), policy or make_policy(bundle)
    with running(lambda worker, said: GrpcServer(own, listening, 20.0, worker, said.append)) as there:
        yield there


def open_connection(port: int, token: str | None = None, path: str = "") -> Any:
    from websockets.sync.client import connect

    headers = None if token is None else {"Authorization": f"Api-Key {token}"}
    return connect(f"ws://{HOST}:{port}{path}", additional_headers=headers, compression=None, max_size=None)


def ask(robot: Any) -> Any:
    robot.send(message(state=STATE))
    return decode_answer(robot.recv(10))["actions"]


def test_a_robot_gets_metadata_and_then_sequences(tiny_bundle: Path) -> None:
    with of_openpi(tiny_bundle) as (port, said), open_connection(port) as robot:
        metadata = msgspec.msgpack.decode(robot.recv(10))
        assert metadata["actions"] == [16, 2] and metadata["observations"] == {"state": [2]}
        assert [ask(robot).shape for _ in range(3)] == [(16, 2)] * 3
    assert [line.partition(" ")[2] for line in said] == ["is connected", "has ended"]


def test_another_robot_is_refused_until_the_first_has_ended(tiny_bundle: Path) -> None:
    from websockets.exceptions import InvalidStatus

    with of_openpi(tiny_bundle) as (port, said):
        with open_connection(port) as robot:
            robot.recv(10)
            for _ in range(3):
                with pytest.raises(InvalidStatus, match="503"):
                    open_connection(port)
                assert ask(robot).shape == (16, 2)
        with open_connection(port) as robot:
            robot.recv(10)
            assert ask(robot).shape == (16, 2)
    assert sum("another robot is served" in line for line in said) == 3


def test_a_client_without_the_token_is_refused(tiny_bundle: Path) -> None:
    from websockets.exceptions import InvalidStatus

    with of_openpi(tiny_bundle, TOKEN) as (port, said):
        for token in (None, "", TOKEN[:-1], "é"):
            with pytest.raises(InvalidStatus, match="401"):
                open_connection(port, token)
        with open_connection(port, TOKEN) as robot:
            robot.recv(10)
            assert ask(robot).shape == (16, 2)
        with socket.create_connection((HOST, port), timeout=10) as health:
            health.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n")
            health.sendall(b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
            assert health.recv(100).startswith(b"HTTP/1.1 200 OK")


def test_a_silent_robot_loses_its_place_only_to_another(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from websockets.exceptions import ConnectionClosedError

    from fewstep.robots.serving import websocket

    monkeypatch.setattr(websocket, "SILENT", 0.2)
    with of_openpi(tiny_bundle) as (port, said), open_connection(port) as robot:
        robot.recv(10)
        time.sleep(0.4)
        assert ask(robot).shape == (16, 2)
        time.sleep(0.4)
        with open_connection(port) as other:
            other.recv(10)
            with pytest.raises(ConnectionClosedError, match="another robot asks for the place"):
                ask(robot)
            assert ask(other).shape == (16, 2)


def test_a_page_in_a_browser_is_refused(tiny_bundle: Path) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    with of_openpi(tiny_bundle) as (port, said):
        with pytest.raises(InvalidStatus, match="403"):
            connect(f"ws://{HOST}:{port}", origin="http://localhost")  # type: ignore[arg-type]
        with open_connection(port) as robot:
            robot.recv(10)
            assert ask(robot).shape == (16, 2)


def test_a_message_that_is_no_observation_is_answered_by_a_line(tiny_bundle: Path) -> None:
    with of_openpi(tiny_bundle) as (port, said), open_connection(port) as robot:
        robot.recv(10)
        for content in ("text", b"", b"\xc1", message(), message(state=np.zeros(3)), b"\x91" * 100_000):
            robot.send(content)
            answer = robot.recv(10)
            assert isinstance(answer, str) and len(answer.splitlines()) == 1
            assert ask(robot).shape == (16, 2)
    assert len(said) == 2 + 6 and all(line.isprintable() for line in said)


def test_a_robot_is_served_while_connections_say_nothing_or_nonsense(tiny_bundle: Path) -> None:
    with of_openpi(tiny_bundle) as (port, said), open_connection(port) as robot:
        robot.recv(10)
        silent = [socket.create_connection((HOST, port), timeout=10) for _ in range(20)]
        for number, content in enumerate((b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"[]\n", b"GET /" + b"a" * 20_000)):
            with socket.create_connection((HOST, port), timeout=10) as other:
                other.sendall(content)
                assert ask(robot).shape == (16, 2), number
        for connection in silent:
            connection.close()
    assert all(line.isprintable() for line in said)


def test_a_message_that_is_too_large_ends_its_connection_alone(tiny_bundle: Path) -> None:
    from websockets.exceptions import ConnectionClosed

    with (
        of_openpi(tiny_bundle, robots=2) as (port, said),
        open_connection(port) as robot,
        open_connection(port) as other,
    ):
        robot.recv(10)
        other.recv(10)
        with pytest.raises(ConnectionClosed):
            other.send(bytes(20 * 2**20))
            other.recv(10)
        assert ask(robot).shape == (16, 2)
    assert any("is gone" in line for line in said)


class Client:
    """The calls of LeRobot's client, each on one channel."""

    def __init__(self, port: int) -> None:
        import grpc

        self.channel = grpc.insecure_channel(f"{HOST}:{port}", options=(("grpc.use_local_subchannel_pool", 1),))
        for name in ("Ready", "SendPolicyInstructions", "GetActions"):
            setattr(self, name, self.channel.unary_unary(f"/{SERVICE}/{name}"))
        self.SendObservations = self.channel.stream_unary(f"/{SERVICE}/SendObservations")

    def start(self) -> "Client":
        self.Ready(b"", timeout=10)  # type: ignore[attr-defined]
        self.SendPolicyInstructions(write_actions(instructions(actions=4)), timeout=10)  # type: ignore[attr-defined]
        return self

    def act(self, step: int) -> list[int]:
        """Send an observation in two parts, and return the steps of the actions."""
        content = observation(step, **JOINTS)
        parts = [b"\x08\x01\x12" + write_actions(content[:50])[1:], b"\x08\x03\x12" + write_actions(content[50:])[1:]]
        self.SendObservations(iter(parts), timeout=10)
        answer = self.GetActions(b"", timeout=10)  # type: ignore[attr-defined]
        from fewstep.robots.serving.lerobot import read_setup

        return [action.arguments[1] for action in read_pickle(read_setup(answer))]


def test_a_robot_of_lerobot_gets_timed_actions(tiny_bundle: Path) -> None:
    with of_lerobot(tiny_bundle) as (port, said):
        robot = Client(port).start()
        assert robot.act(0) == [0, 1, 2, 3] and robot.act(4) == [4, 5, 6, 7]
        robot.channel.close()
    assert "is connected" in said[0] and "asks for 'diffusion' 'somewhere'" in said[1]


def test_calls_of_other_clients_are_refused_and_the_robot_is_served(tiny_bundle: Path) -> None:
    import grpc

    with of_lerobot(tiny_bundle) as (port, said):
        robot = Client(port).start()
        other = Client(port)
        endless = other.channel.stream_unary(f"/{SERVICE}/SendObservations")
        stop = threading.Event()
        open_streams = [endless.future(iter(stop.wait, None)) for _ in range(30)]
        for step in range(3):
            with pytest.raises(grpc.RpcError, match="another robot is served"):
                other.start()
            with pytest.raises(grpc.RpcError, match="has not called Ready"):
                other.act(step)
            assert robot.act(step) == [step, step + 1, step + 2, step + 3]
        stop.set()
        for stream in open_streams:
            stream.cancel()
        robot.channel.close()
        other.channel.close()


@pytest.mark.parametrize("content", [b"", b"\xff", b"\x08\x03\x12\x03abc", b"\x08\x03", b"\x1a\x00"])
def test_an_observation_that_cannot_be_read_is_one_line(tiny_bundle: Path, content: bytes) -> None:
    import grpc

    with of_lerobot(tiny_bundle) as (port, said):
        robot = Client(port).start()
        with pytest.raises(grpc.RpcError) as failure:
            robot.SendObservations(iter([content]), timeout=10)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert robot.act(1) == [1, 2, 3, 4]
        robot.channel.close()
    assert len(said) == 3 or "has ended" in said[-1]


def wait_until(is_true: Callable[[], bool]) -> None:
    """Wait until a condition holds, at most 20 seconds."""
    end = time.monotonic() + 20
    while not is_true() and time.monotonic() < end:
        time.sleep(0.05)
    assert is_true()


def test_a_robot_that_ends_leaves_its_place(tiny_bundle: Path) -> None:
    import grpc

    with of_lerobot(tiny_bundle) as (port, said):
        first = Client(port).start()
        first.act(0)
        waiting = first.GetActions.future(b"", timeout=10)  # type: ignore[attr-defined]
        time.sleep(0.5)
        first.channel.close()
        wait_until(lambda: "has ended" in said[-1])
        assert waiting.code() is grpc.StatusCode.CANCELLED  # gRPC cancels a call that is collected
        assert Client(port).start().act(5) == [5, 6, 7, 8]


def test_a_robot_whose_call_is_long_keeps_its_place(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import grpc

    from fewstep.robots.serving import grpc_server

    monkeypatch.setattr(grpc_server, "SILENT", 0.05)
    policy, started, proceed = make_policy(tiny_bundle), threading.Event(), threading.Event()
    sample = policy.sample
    policy.sample = lambda window: (started.set(), proceed.wait(10), sample(window))[2]  # type: ignore
    with of_lerobot(tiny_bundle, policy=policy) as (port, said), ThreadPoolExecutor(1) as thread:
        robot = Client(port).start()
        acting = thread.submit(robot.act, 0)
        assert started.wait(10)
        time.sleep(0.1)  # longer than SILENT
        with pytest.raises(grpc.RpcError, match="another robot is served"):
            Client(port).start()
        proceed.set()
        assert acting.result() == [0, 1, 2, 3]


def test_a_robot_that_ends_while_its_actions_are_sampled_leaves_its_place(tiny_bundle: Path) -> None:
    policy, begun, proceed = make_policy(tiny_bundle), threading.Event(), threading.Event()
    sample = policy.sample
    policy.sample = lambda window: (begun.set(), proceed.wait(10), sample(window))[2]  # type: ignore
    with of_lerobot(tiny_bundle, policy=policy) as (port, said), ThreadPoolExecutor(1) as thread:
        robot = Client(port).start()
        acting = thread.submit(robot.act, 0)
        assert begun.wait(10)
        robot.channel.close()
        assert acting.exception() is not None
        wait_until(lambda: "has ended" in said[-1])
        proceed.set()
        assert Client(port).start().act(5) == [5, 6, 7, 8]


def test_the_open_calls_of_one_robot_are_limited_and_another_is_served(tiny_bundle: Path) -> None:
    import grpc

    with of_lerobot(tiny_bundle, robots=2) as (port, said):
        flooding, robot = Client(port).start(), Client(port).start()
        stop = threading.Event()
        streams = [flooding.SendObservations.future(iter(stop.wait, None)) for _ in range(60)]
        for step in range(3):
            assert robot.act(step) == [step, step + 1, step + 2, step + 3]
        with pytest.raises(grpc.RpcError, match="the robot has 3 open calls"):
            flooding.act(0)
        stop.set()
        for call in streams:
            call.cancel()


def test_a_fault_of_the_policy_is_one_line(tiny_bundle: Path) -> None:
    import grpc

    policy = make_policy(tiny_bundle)
    policy.sample = lambda window: {}["a"]  # type: ignore
    with of_lerobot(tiny_bundle, policy=policy) as (port, said):
        with pytest.raises(grpc.RpcError) as failure:
            Client(port).start().act(0)
        assert failure.value.code() is grpc.StatusCode.INTERNAL
        assert said[-1].endswith(": KeyError: 'a'")


def test_an_observation_is_sampled_once_for_two_requests(tiny_bundle: Path) -> None:
    with of_lerobot(tiny_bundle) as (port, said):
        robot = Client(port).start()
        waiting = [robot.GetActions.future(b"", timeout=10) for _ in range(2)]  # type: ignore[attr-defined]
        time.sleep(0.2)
        robot.SendObservations(iter([b"\x08\x03\x12" + write_actions(observation(0, **JOINTS))[1:]]), timeout=10)
        assert sorted(len(call.result()) > 0 for call in waiting) == [False, True]
