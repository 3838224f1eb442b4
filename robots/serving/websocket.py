"""A server for openpi's clients: observations and actions over a WebSocket.

A client is `openpi_client.websocket_client_policy.WebsocketClientPolicy`. A connection is one robot. It has at most one
request at a time in the queue of the policy, so no client delays another by more than one call. Browsers are refused:
any page that is open on this machine could connect to it.
"""

import asyncio
import http
import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

import websockets.asyncio.server as websockets
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from fewstep.plans.errors import UserError, first_line, printable
from fewstep.robots.serving.listening import Listening
from fewstep.robots.serving.openpi import answer_observation, encode_metadata
from fewstep.robots.serving.served_policy import ServedPolicy

HANDSHAKE = 5.0  # seconds within which a connection must have sent its request
CLOSING = 1.0  # seconds within which a connection must be closed
SILENT = 60.0  # seconds without an observation after which a robot loses its place to another one that asks for it
SPARE = 16 * 2**20  # bytes of a message that the policy does not need, such as another camera
POLICY_VIOLATION, TRY_LATER = 1008, 1013  # codes of the protocol
KEY = "Api-Key "

Say = Callable[[str], None]


class _Lines(logging.Handler):
    """Passes on each message of the library as one line."""

    def __init__(self, say: Say) -> None:
        super().__init__(logging.ERROR)
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self._say(printable(record.getMessage() + (f": {first_line(error)}" if error is not None else "")))


class WebSocketServer:
    """Serves openpi's clients.

    worker: an executor of one thread, in which the policy runs. say: called with a line for each connection and fault.
    """

    def __init__(self, policy: ServedPolicy, listening: Listening, worker: Executor, say: Say) -> None:
        self._policy, self._listening, self._worker, self._say = policy, listening, worker, say
        self._robots: dict[websockets.ServerConnection, float] = {}  # the time of the last answer; inf during a call

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until `stop` is set. `ready` is called with the port once connections are accepted."""
        log = logging.Logger("fewstep.websocket")
        log.addHandler(_Lines(self._say))
        async with websockets.serve(
            self._serve_robot,
            self._listening.host,
            self._listening.port,
            process_request=self._admit,
            origins=[None],  # a browser names the origin of its page
            compression=None,
            max_size=SPARE + 2 * self._policy.observations.most_bytes,
            max_queue=1,
            open_timeout=HANDSHAKE,
            close_timeout=CLOSING,
            logger=log,
        ) as server:
            ready(next(iter(server.sockets)).getsockname()[1])
            await stop.wait()

    async def _admit(self, connection: websockets.ServerConnection, request: Request) -> Response | None:
        """Return the answer to a request that is not served; None for a robot's."""
        if request.path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        given = request.headers.get_all("Authorization")
        token = given[0].removeprefix(KEY) if len(given) == 1 and given[0].startswith(KEY) else None
        if not self._listening.admits(token):
            self._say(f"{_peer(connection)} was refused: it does not have the token")
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "give the token: WebsocketClientPolicy(api_key=...)\n"
            )
        if self._is_full and (silent := self._find_silent()) is not None:
            del self._robots[silent]
            await silent.close(TRY_LATER, f"no observation came for {SILENT:g} s, and another robot asks for the place")
        if self._is_full:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, self._refuse(connection) + "\n")
        return None

    @property
    def _is_full(self) -> bool:
        return len(self._robots) >= self._listening.robots

    def _find_silent(self) -> websockets.ServerConnection | None:
        """Return a robot that has sent nothing for too long, if there is one."""
        now = time.monotonic()
        return next((robot for robot, answered in self._robots.items() if now - answered > SILENT), None)

    def _refuse(self, connection: websockets.ServerConnection) -> str:
        count = self._listening.robots
        line = "another robot is served" if count == 1 else f"{count} robots are served"
        self._say(f"{_peer(connection)} was refused: {line}")
        return line

    async def _serve_robot(self, connection: websockets.ServerConnection) -> None:
        if self._is_full:  # another connection was admitted at the same time
            await connection.close(TRY_LATER, self._refuse(connection))
            return
        self._robots[connection] = time.monotonic()
        peer = _peer(connection)
        self._say(f"{peer} is connected")
        try:
            await self._answer_observations(connection)
            self._say(f"{peer} has ended")
        except ConnectionClosed as error:
            self._say(printable(f"{peer} is gone: {first_line(error)}"))
        finally:
            self._robots.pop(connection, None)

    async def _answer_observations(self, connection: websockets.ServerConnection) -> None:
        """Answer each observation with actions, or with a line of text, which the client raises as an error."""
        await connection.send(encode_metadata(self._policy.describe()))
        episode, loop, previous = self._policy.begin_episode(), asyncio.get_running_loop(), None
        async for message in connection:
            began = time.perf_counter()
            self._robots[connection] = math.inf
            try:
                answer: bytes | str = await loop.run_in_executor(
                    self._worker, partial(answer_observation, self._policy, episode, message, previous)
                )
            except UserError as error:
                answer = str(error)
                self._say(f"{_peer(connection)}: {answer}")
            await connection.send(answer)
            self._robots[connection] = time.monotonic()
            previous = 1e3 * (time.perf_counter() - began)


def _peer(connection: websockets.ServerConnection) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"
