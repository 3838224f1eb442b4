"""A server for LeRobot's robot clients: its asynchronous inference over gRPC, without protobuf.

LeRobot's client has no way to send a token, so the server accepts connections from this machine only. Each call runs as
a coroutine: calls that never end occupy no thread.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio

from fewstep.plans.errors import UserError, first_line, printable
from fewstep.robots.serving.lerobot import (
    MOST_BYTES,
    SERVICE,
    LeRobotSession,
    read_chunk,
    read_setup,
    write_actions,
)
from fewstep.robots.serving.listening import Listening
from fewstep.robots.serving.served_policy import ServedPolicy

POLLING = 2.0  # seconds after which the answer to a request for actions is empty, as with LeRobot's server
SILENT = 10.0  # seconds without a call after which a robot is taken to be gone
OBSERVING = 10.0  # seconds within which an observation must have been sent
CALLS = 3  # open calls of a robot: LeRobot's client sends observations and asks for actions
STREAMS = 16  # open calls of clients that are not served
BEGIN, MIDDLE, END = 1, 2, 3  # transfer states of the parts of an observation
EMPTY = b""

Say = Callable[[str], None]
Result = TypeVar("Result")
Context = Any  # grpc.aio.ServicerContext


@dataclass
class RemoteRobot:
    """A connected robot.

    calls: its open calls. called: the time at which the last one began or ended. due: set if actions must be sampled
    from its latest observation. busy: held by the call that the policy runs.
    """

    session: LeRobotSession
    called: float
    calls: int = 0
    due: asyncio.Event = field(default_factory=asyncio.Event)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    def is_gone(self, now: float) -> bool:
        return not self.calls and now - self.called > SILENT

    @contextmanager
    def open_call(self) -> Iterator["RemoteRobot"]:
        """Count a call within the block."""
        self.calls += 1
        try:
            yield self
        finally:
            self.calls -= 1
            self.called = time.monotonic()


class GrpcServer:
    """Serves LeRobot's clients.

    rate: actions per second. worker: an executor of one thread, in which the policy runs. say: called with a line for
    each connection and fault.
    """

    def __init__(self, policy: ServedPolicy, listening: Listening, rate: float, worker: Executor, say: Say) -> None:
        self._policy, self._listening, self._rate, self._worker, self._say = policy, listening, rate, worker, say
        self._robots: dict[str, RemoteRobot] = {}

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until `stop` is set. `ready` is called with the port once connections are accepted."""
        options = (("grpc.so_reuseport", 0),)  # a second server at this port fails instead of sharing it
        server = grpc.aio.server(options=options, maximum_concurrent_rpcs=STREAMS + CALLS * self._listening.robots)
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_unary_rpc_method_handler
        handlers = {
            "Ready": unary(self._ready),
            "SendPolicyInstructions": unary(self._instruct),
            "SendObservations": stream(self._observe),
            "GetActions": unary(self._actions),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = self._listening.address(self._listening.port)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError:
            raise UserError(
                f"{address} cannot be used", "give another --port, or end the program that uses it"
            ) from None
        await server.start()
        ready(port)
        try:
            await stop.wait()
        finally:
            await server.stop(0)

    async def _ready(self, request: bytes, context: Context) -> bytes:
        """Begin an episode of a robot, if there is room for it."""
        peer, now = context.peer(), time.monotonic()
        gone = [address for address, robot in self._robots.items() if address == peer or robot.is_gone(now)]
        for address in gone:
            del self._robots[address]
        if len(self._robots) >= (count := self._listening.robots):
            line = "another robot is served" if count == 1 else f"{count} robots are served"
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, line)
        self._robots[peer] = RemoteRobot(LeRobotSession(self._policy, self._rate), now)
        self._say(f"{peer} is connected")
        return EMPTY

    async def _instruct(self, request: bytes, context: Context) -> bytes:
        with await self._call(context) as robot:
            asked = await self._run(context, robot, lambda: robot.session.instruct(read_setup(request)))
        self._say(f"{context.peer()} asks for {asked}, and is served this policy")
        return EMPTY

    async def _observe(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        with await self._call(context) as robot:
            try:
                content = await asyncio.wait_for(self._receive(requests, context), OBSERVING)
            except asyncio.TimeoutError:
                await self._refuse(context, grpc.StatusCode.DEADLINE_EXCEEDED, "an observation takes too long")
            if await self._run(context, robot, lambda: robot.session.observe(content)):
                robot.due.set()
        return EMPTY

    async def _receive(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Return an observation from its parts."""
        parts = bytearray()
        async for message in requests:
            try:
                state, data = read_chunk(message)
                if len(parts) + len(data) > MOST_BYTES:
                    raise UserError(f"an observation has more than {MOST_BYTES} bytes", "send smaller pictures")
            except UserError as error:
                await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
            if state == BEGIN:
                parts.clear()
            parts += data
            if state == END:
                return bytes(parts)
        await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, "an observation has no end")

    async def _actions(self, request: bytes, context: Context) -> bytes:
        """Return the actions from the robot's latest observation. Without a new one, wait for it, or return none."""
        with await self._call(context) as robot:
            try:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(robot.due.wait(), POLLING)
                async with robot.busy:
                    if not robot.due.is_set():  # or another call has taken the actions
                        return EMPTY
                    robot.due.clear()
                    return write_actions(await self._work(context, robot.session.sample))
            except asyncio.CancelledError:  # the client has closed its connection
                if self._robots.get(context.peer()) is robot:
                    del self._robots[context.peer()]
                    self._say(f"{context.peer()} has ended")
                raise

    async def _call(self, context: Context) -> AbstractContextManager[RemoteRobot]:
        """Begin a call of a robot."""
        robot = self._robots.get(context.peer())
        if robot is None:
            await self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, "the robot has not called Ready")
        if robot.calls >= CALLS:
            await self._refuse(context, grpc.StatusCode.RESOURCE_EXHAUSTED, f"the robot has {CALLS} open calls")
        return robot.open_call()

    async def _run(self, context: Context, robot: RemoteRobot, call: Callable[[], Result]) -> Result:
        """Run a call of a robot. It waits for the robot's own calls, and for one call of each other robot."""
        async with robot.busy:
            return await self._work(context, call)

    async def _work(self, context: Context, call: Callable[[], Result]) -> Result:
        """Run a call in the worker's thread. A failure ends the client's call with one line."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, call)
        except UserError as error:
            await self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except Exception as error:
            line = printable(f"{type(error).__name__}: {first_line(error)}")
            await self._refuse(context, grpc.StatusCode.INTERNAL, line)

    async def _refuse(self, context: Context, code: grpc.StatusCode, line: str) -> NoReturn:
        self._say(f"{context.peer()}: {line}")
        await context.abort(code, line)
        raise AssertionError("abort raises")
