"""Messages between a policy's server and a robot's process: a line of JSON, followed by the bytes of its arrays.

A robot's process needs a copy of this file and numpy, but not fewstep. It sends a reset, which begins an episode, and
then an observation at each tick:

    {"reset": 7, "prompt": "pick up the cube", "arrays": []}
    {"arrays": [["observation.state", "float32", [3]], ["observation.images.top", "uint8", [3, 96, 96]]]}

The answer to an observation is an action, as described by `fewstep.robots.control.Action`. If it has no array, nothing
must be sent to the robot. The answer to an invalid message is {"error": ...}. Nothing is unpickled.
"""

import io
import json
import math
import socket
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

HOST, PORT = "127.0.0.1", 5757
TOKEN = "token"  # field of the first message, where the server asks for it
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

    def readinto(self, buffer: "WriteableBuffer") -> int:
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("a message takes too long")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


def receive(stream: "io.BufferedReader[Incoming]", seconds: float) -> Message | None:
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

    def __init__(self, port: int = PORT, host: str = HOST, token: str | None = None) -> None:
        self._token = token
        self._connection = socket.create_connection((host, port), timeout=SILENT)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = io.BufferedReader(Incoming(self._connection))

    def reset(self, seed: int = 0, prompt: str | None = None) -> None:
        token = {} if self._token is None else {TOKEN: self._token}
        self._ask(Message({"reset": seed, "prompt": prompt, **token}))

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
