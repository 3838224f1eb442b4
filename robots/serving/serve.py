"""Serve a policy to robots in other processes, until Ctrl-C or SIGTERM (`fewstep serve`)."""

import asyncio
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Literal, Protocol

import numpy as np

from fewstep.plans.any_plan import shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import TextReference
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.robots.control.arguments import check_positive
from fewstep.robots.control.history import History
from fewstep.robots.control.policy_plans import compile_policy_plan
from fewstep.robots.control.rhythm import Rhythm
from fewstep.robots.control.runner import PolicyRunner
from fewstep.robots.control.safety import Safety
from fewstep.robots.serving.line_server import serve_lines
from fewstep.robots.serving.listening import Listening, read_token
from fewstep.robots.serving.served_policy import PROMPT, ServedPolicy
from fewstep.runtime.backends.registry import create_backend
from fewstep.runtime.options import BundleOptions
from fewstep.runtime.sampling.loading import load
from fewstep.runtime.sampling.sampler import Sampler
from fewstep.runtime.text import TextEncoder, load_text_encoder

PORTS = {"openpi": 8000, "lerobot": 8080, "lines": 5757}  # by protocol: those of openpi and of LeRobot
OF_A_CHOICE = ("plan", "precision", "threads", "backend")  # options
EXTRA = "pip install 'fewstep[serve]'"

Say = Callable[[str], None]
Opened = tuple[Sampler, Sequence[Plan]]  # a loaded policy, and its plans, best first; `lines` alone uses all


@dataclass(frozen=True)
class ServeOptions(BundleOptions):
    """Serve a policy to robots in other processes, until Ctrl-C.

    bundle: The folder of the policy's bundle.
    protocol: openpi for openpi's clients (WebSocket), lerobot for LeRobot's robot client (gRPC), or lines for a control
        loop in this process, which returns one action for each observation.
    plan: The sampling plan, as in `fewstep run`. Default: the plan of the calibration, else that of the model.
    precision: float32, int8, float16 or bfloat16, by default as in `fewstep run`.
    chosen: Serve the plan, precision and engine of the last `fewstep choose` on this machine.
    rate: Ticks per second. lerobot and lines need it.
    host: Address to listen on. Another one than this machine's own needs a token.
    port: Port to listen on; 0 takes a free one. Default: 8000 for openpi, 8080 for lerobot, 5757 for lines.
    token: A text file with the token that clients must have. LeRobot's client cannot send one.
    robots: Robots that are served at once. Others are refused.
    rename: CLIENT_NAME=CONDITION for a measurement that the client names differently. May be given several times.
    seed: Seed of the first sequence of actions. Each further one increments it.
    threads: CPU threads of onnxruntime and openvino; 0 for one per physical core.
    backend: The inference engine, as in `fewstep run`.
    """

    protocol: Literal["openpi", "lerobot", "lines"] = "openpi"
    plan: TextReference | None = None
    precision: str | None = None
    chosen: bool = False
    rate: float | None = None
    host: str = "127.0.0.1"
    port: int | None = None
    token: Path | None = None
    robots: int = 1
    rename: tuple[str, ...] = field(default=(), metadata={"whole": True, "is_text": True})
    seed: int = 0
    threads: int = field(default=0, metadata={"expert": True})
    backend: str = field(default="onnxruntime", metadata={"expert": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in OF_A_CHOICE if self.chosen else ():
            if getattr(self, name) != type(self).__dataclass_fields__[name].default:
                raise UserError(f"--chosen already sets --{name}", f"leave out --{name} or --chosen")
        if self.protocol == "openpi" and self.rate is not None:
            raise UserError("--rate is not for openpi, whose clients time their actions", "leave --rate out")
        if self.protocol != "openpi" and self.rate is None:
            raise UserError(f"--protocol {self.protocol} needs --rate", "give the robot's ticks per second: --rate 30")
        if self.rate is not None:
            check_positive("--rate", self.rate)
        if self.robots < 1:
            raise UserError(f"--robots is {self.robots}", "give 1 or more")
        if self.port is not None and not 0 <= self.port < 2**16:
            raise UserError(f"--port is {self.port}", "give 0 to 65535")
        if self.protocol == "lines" and self.robots > 1:
            raise UserError("--protocol lines serves one robot", "start a server on another --port for each robot")
        if self.protocol == "lines" and self.rename:
            raise UserError("--protocol lines takes the names of conditions", "leave --rename out")
        if self.protocol == "lerobot" and self.token is not None:
            raise UserError("LeRobot's client cannot send a token", "leave --token out")


Opener = Callable[[ServeOptions], AbstractContextManager[Opened]]


@dataclass(frozen=True)
class Served:
    """What a server did: the sequences that it sampled, and the statistics of their latencies as text."""

    sequences: int
    latencies: str


class Server(Protocol):
    """A server whose requests are coroutines."""

    async def run(self, stop: asyncio.Event, ready: Callable[[int], None]) -> None:
        """Serve until `stop` is set. `ready` is called with the port once connections are accepted."""


@contextmanager
def open_policy(options: ServeOptions) -> Iterator[Opened]:
    """Load the policy of the options, and compile its plan."""
    with load(options.bundle, options.precision, backend=create_backend(options.backend, options.threads)) as sampler:
        yield sampler, [compile_policy_plan(sampler, options.plan)]


def serve(options: ServeOptions, say: Say, opener: Opener = open_policy) -> Served:
    """Serve a policy until Ctrl-C or SIGTERM. `say` is called with a line for each event. `opener` opens the policy."""
    listening = check_listening(options)
    renamed = parse_renamed(options.rename)
    make_server = None if options.protocol == "lines" else find_server(options.protocol)
    with ExitStack() as stack:
        sampler, plans = stack.enter_context(opener(options))
        text = None if sampler.bundle.manifest.text is None else load_text_encoder(sampler.bundle)
        if make_server is None:
            return _serve_lines(options, listening, sampler, plans, text, say)
        policy = ServedPolicy(sampler, plans[0], text, renamed, options.seed)
        policy.warm_up()
        worker = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="policy"))
        server = make_server(policy, listening, options.rate or 0.0, worker, say)
        run_until_stopped(server, lambda port: say(describe_ready(options, listening, sampler, policy.plan, port)))
        return Served(policy.latencies.count, str(policy.latencies))


def check_listening(options: ServeOptions) -> Listening:
    """Return where to listen. Raises UserError for an address that others can reach, without a token."""
    token = None if options.token is None else read_token(options.token)
    port = PORTS[options.protocol] if options.port is None else options.port
    listening = Listening(options.host, port, token, options.robots)
    if not listening.is_local and token is None:
        what = f"others can reach {options.host}"
        if options.protocol == "lerobot":
            raise UserError(
                f"{what}, and LeRobot's client cannot send a token",
                "listen on 127.0.0.1, and let the robot's machine connect through ssh -L 8080:127.0.0.1:8080",
            )
        raise UserError(what, "give --token FILE, or listen on 127.0.0.1")
    return listening


def parse_renamed(texts: tuple[str, ...]) -> dict[str, str]:
    """Parse CLIENT_NAME=CONDITION texts."""
    pairs = [text.partition("=") for text in texts]
    for text, (name, sign, condition) in zip(texts, pairs, strict=True):
        if not (name and sign and condition):
            raise UserError(f"--rename {text!r} is not of the form CLIENT_NAME=CONDITION", "give both names")
    return {name: condition for name, _, condition in pairs}


def find_server(protocol: str) -> Callable[..., Server]:
    """Return the function that makes the server of a protocol. Raises UserError if its library is missing."""
    try:
        if protocol == "openpi":
            from fewstep.robots.serving.websocket import WebSocketServer

            return lambda policy, listening, _, worker, say: WebSocketServer(policy, listening, worker, say)
        from fewstep.robots.serving.grpc_server import GrpcServer

        return GrpcServer
    except ModuleNotFoundError as error:
        raise UserError(f"--protocol {protocol} needs {error.name}, which is not installed", EXTRA) from None


def run_until_stopped(server: Server, ready: Callable[[int], None]) -> None:
    """Run a server until Ctrl-C or SIGTERM."""

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        with _on_signals(lambda: loop.call_soon_threadsafe(stop.set)):
            await server.run(stop, ready)

    try:
        asyncio.run(run())
    except OSError as error:
        raise UserError(
            f"the address cannot be used: {error.strerror or error}", "give another --host or --port"
        ) from None


@contextmanager
def _on_signals(call: Callable[[], object]) -> Iterator[None]:
    """Call a function at SIGINT and SIGTERM within the block. Only the main thread receives signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        call()

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _serve_lines(
    options: ServeOptions,
    listening: Listening,
    sampler: Sampler,
    plans: Sequence[Plan],
    text: TextEncoder | None,
    say: Say,
) -> Served:
    """Serve the control loop of one robot after the other."""
    assert options.rate is not None
    history = History(sampler)
    observation = {
        name: np.zeros(condition.shape, condition.dtype) for name, condition in history.tick_conditions.items()
    }
    prompt = None if text is None else PROMPT
    rhythm, safety = Rhythm(options.rate, plans), Safety(most_held=0)
    with PolicyRunner(sampler, rhythm, safety, text=text) as runner:
        runner.warm_up(observation, prompt=prompt)
        try:
            family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
            listener = socket.create_server((listening.host, listening.port), family=family)
        except OSError as error:
            fix = "give another --host or --port"
            where = listening.address(listening.port)
            raise UserError(f"{where} cannot be used: {error.strerror or error}", fix) from None
        with suppress(Stopped), listener, _on_signals(_raise_stop):
            say(describe_ready(options, listening, sampler, plans[0], listener.getsockname()[1]))
            serve_lines(runner, listening, listener, say)
        statistics = runner.statistics
        return Served(statistics.sampling.count, str(statistics))


class Stopped(BaseException):
    """Ends a server that waits for a robot."""


def _raise_stop() -> None:
    raise Stopped


def describe_ready(options: ServeOptions, listening: Listening, sampler: Sampler, plan: Plan, port: int) -> str:
    """Return the line that says what is served, and where."""
    count = options.robots
    robots = "one robot at a time" if count == 1 else f"up to {count} robots"
    where = listening.address(port)
    shaping = shaping_of(plan)
    how = plan.name if shaping is None else f"{plan.name} {describe_shaping(shaping)}"
    return f"{options.bundle} ({sampler.body.precision}, {how}) is served at {where} to {robots}, as {options.protocol}"
