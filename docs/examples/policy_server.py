"""Run a policy in a separate process: the robot's process asks it for an action at each tick, over a socket.

    python docs/examples/policy_server.py policy 20           # serve at 20 actions per second
    python docs/examples/policy_server.py policy 20 --robot   # in another terminal: a robot that does not move

The server only accepts connections from this machine, and serves one robot at a time. A connection is closed if its
first message does not arrive within a second, so a silent connection delays a robot by at most a second. A robot that
is being served must send a message at least every 10 seconds. A program on this machine that connects again and again
can still block others. There is no password; to reach another machine, use a tunnel such as SSH. A robot's process
needs `Message`, `Robot` and numpy, but not fewstep.

A message is a line of JSON, followed by the bytes of its arrays. Nothing is unpickled. A reset begins an episode:

    {"reset": 7, "prompt": "pick up the cube", "arrays": []}
    {"arrays": [["observation.state", "float32", [3]], ["observation.images.top", "uint8", [3, 96, 96]]]}

The answer to an observation is an action, as described by `fewstep.robots.control.Action`. If it has no array, nothing
must be sent to the robot. The answer to an invalid message is {"error": ...}. In a ROS node, keep one `Robot`, call
`act` with the latest messages from a timer of this rate, and publish the array.
"""

import io
import json
import math
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

HOST, PORT = "127.0.0.1", 5757
FIRST = 1.0  # seconds within which the first message of a connection must be complete
SILENT = 10.0  # seconds within which the next message must be complete; otherwise the connection is closed
LINE, BYTES = 2**16, 2**28  # largest length of a line, and largest number of bytes of arrays
NAMES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
TYPES = {name: np.dtype(name) for name in NAMES.split()}  # types of arrays


@dataclass(frozen=True)
class Message:
    """A line of JSON, and the arrays that follow it."""

    fields: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def send(self, connection: socket.socket) -> None:
        arrays = {name: np.ascontiguousarray(array) for name, array in self.arrays.items()}
        listed = [(name, array.dtype.name, array.shape) for name, array in arrays.items()]
        line = json.dumps({**self.fields, "arrays": listed}).encode() + b"\n"
        connection.settimeout(SILENT)
        connection.sendall(b"".join((line, *(array.tobytes() for array in arrays.values()))))


class Incoming(io.RawIOBase):
    """The bytes of a connection until a deadline. The deadline also ends a message that arrives byte by byte."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.until = connection, math.inf

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("a message takes too long")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


def receive(stream: Any, seconds: float) -> Message | None:
    """Return the next message from an `Incoming` within this time, or None after the last one. Raises an error for
    anything else."""
    stream.raw.until = time.monotonic() + seconds
    line = stream.readline(LINE)
    if not line:
        return None
    fields = json.loads(line)
    if not line.endswith(b"\n") or not isinstance(fields, dict):
        raise ValueError("a message begins with a line of JSON")
    arrays, left = {}, BYTES
    for name, kind, shape in fields.pop("arrays"):
        if kind not in TYPES or not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"{name!r:.40} is {kind!r:.40} {shape!r:.40}")
        dtype = TYPES[kind]
        size = math.prod(shape) * dtype.itemsize
        left -= size
        if left < 0:
            raise ValueError(f"the arrays have more than {BYTES} bytes")
        content = stream.read(size)
        if len(content) < size:
            raise ValueError("a message ends early")
        arrays[str(name)] = np.frombuffer(content, dtype).reshape(shape)
    return Message(fields, arrays)


class Robot:
    """The robot's side of a connection. The first message must be sent within a second."""

    def __init__(self, port: int = PORT) -> None:
        self._connection = socket.create_connection((HOST, port), timeout=SILENT)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = io.BufferedReader(Incoming(self._connection))

    def reset(self, seed: int = 0, prompt: str | None = None) -> None:
        self._ask(Message({"reset": seed, "prompt": prompt}))

    def act(self, observation: dict[str, np.ndarray]) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Return the action of this tick, or None if nothing must be sent to the robot, and the other fields of the
        answer."""
        answer = self._ask(Message({}, observation))
        return answer.arrays.get("action"), answer.fields

    def close(self) -> None:
        self._stream.close()
        self._connection.close()

    def _ask(self, message: Message) -> Message:
        message.send(self._connection)
        answer = receive(self._stream, SILENT)
        if answer is None or "error" in answer.fields:
            raise RuntimeError("the server is gone" if answer is None else answer.fields["error"])
        return answer


def serve(runner: Any, listening: socket.socket, robots: int | None = None) -> None:
    """Serve robots, one after the other; `robots` is the number after which to stop. Each connection begins with a
    reset."""
    from fewstep.runtime import UserError

    while robots is None or robots > 0:
        connection, _ = listening.accept()
        robots = None if robots is None else robots - 1
        with connection:
            ready, stream = False, io.BufferedReader(Incoming(connection))
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                seconds = FIRST
                while (message := receive(stream, seconds)) is not None:
                    seconds = SILENT
                    try:
                        if "reset" in message.fields:
                            runner.reset(message.fields["reset"], prompt=message.fields.get("prompt"))
                            answer, ready = Message(), True
                        else:
                            if not ready:
                                raise UserError("no episode has begun", "send a reset first")
                            answer = _answer(runner.act(message.arrays))
                    except UserError as error:
                        answer = Message({"error": str(error)})
                    answer.send(connection)
            except Exception as error:  # disconnected or not a robot; continue with the next connection
                print(f"policy_server: {type(error).__name__}: {str(error)!r:.200}", file=sys.stderr)


def _answer(action: Any) -> Message:
    fields = {"source": action.source, "age": action.age, "problem": action.problem}
    return Message(fields, {} if action.value is None else {"action": action.value})


def main(bundle: str, rate: str, robot: str = "") -> None:
    from fewstep.robots.control import PolicyRunner, Rhythm, Safety
    from fewstep.runtime import load
    from fewstep.runtime.bundle.reading import open_bundle
    from fewstep.runtime.text import load_text_encoder

    manifest = open_bundle(bundle).manifest
    seen = {each.name: np.zeros(each.shape[1:], each.dtype) for each in manifest.conditions}
    prompt = None if manifest.text is None else "stand still"
    if robot:
        asks = Robot()
        asks.reset(prompt=prompt)
        print(*asks.act(seen))
        return
    text = None if manifest.text is None else load_text_encoder(bundle)
    plans = ("euler:10@trailing",) if manifest.prediction == "flow" else ("ddim:4", "ddim:2")
    rhythm, safety = Rhythm(float(rate), plans), Safety(most_held=0)
    with load(bundle) as sampler, PolicyRunner(sampler, rhythm, safety, text=text) as runner:
        runner.warm_up(seen, prompt=prompt)
        with socket.create_server((HOST, PORT)) as listening:
            print(f"listening at {HOST}:{PORT}")
            serve(runner, listening)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python docs/examples/policy_server.py BUNDLE RATE [--robot]")
    from fewstep.runtime import UserError

    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"policy_server: {error}")
