"""A bundle small enough to compute by hand, for tests of the code that reads and runs bundles."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # ahead of numpy and torch: on tiny arrays their threads wait, and spin
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # a forked process runs another program, without gRPC's handlers

import gc
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from itertools import count
from math import inf
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import msgspec
import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.measure import estimate
from fewstep.measure.speed import contender_process, timed_process
from fewstep.plans import compile
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.tracer import Solver
from fewstep.report.choosing import companion_times, cost, whole_call
from fewstep.runtime.bundle.manifest import Body, Condition, Coverage, GraphEntry, Provenance, StepGraph
from fewstep.runtime.machine import code_digest
from tests.bundles import node, small, value, write_graphs
from tests.timed_here import TimedHere

EXPORTED = {
    "exported_carrying",
    "exported_fashion_mnist",
    "exported_light",
    "exported_tokens",
    "layers_of_experts",
    "unet",
}  # fixtures
EXPORTS, FEW = Path(__file__).parent / "export", 16  # tests of a file
TEACHERS = 80  # steps of the shortest one
COLLECTIONS = 10_000, 10, 100  # thresholds of the garbage collector, which took a tenth of the time with its own
FROZEN = [0]  # modules at the last freeze of the garbage collector


def pytest_configure() -> None:
    """The processes of all tests share compiled modules, in a separate folder. If packages were installed with theirs,
    those are used.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if not Path(cache_from_source(np.__file__)).is_file():
        folder = str(Path(__file__).parents[1] / ".pytest_cache/bytecode")
        sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = folder
    _wait_without_spinning()
    gc.set_threshold(*COLLECTIONS)
    os.fsync = lambda descriptor: None  # no test cuts the power


def _wait_without_spinning() -> None:
    """Waiting threads of onnxruntime would keep a core from the other worker, even for a tiny graph."""
    with suppress(ImportError):
        from onnxruntime import SessionOptions

        add, key = SessionOptions.add_session_config_entry, "session.intra_op.allow_spinning"
        SessionOptions.add_session_config_entry = lambda own, name, value: add(own, name, "0" if name == key else value)


def _read_sources_once() -> None:
    """Each calibration digests fewstep's sources, which do not change, except in a copy that a test edits."""
    digested = cache(lambda packages, *_: code_of(packages))

    def once(packages: Iterable[Any]) -> bytes:
        known = tuple(packages)
        if not all(isinstance(each, ModuleType) for each in known):
            return code_of(known)
        paths = (path for each in known for path in each.__path__)
        return digested(known, code_digest.version_of("fewstep"), *paths)

    code_of, code_digest.digest_code = code_digest.digest_code, once


def _compile_teachers_once() -> None:
    """Each verb compiles its teacher of 80 steps or more again, which for a tiny denoiser is a tenth of its work."""
    traced = compile.trace_plan
    kept = cache(traced)

    def once(name: str, solver: Solver, times: Sequence[Time], *rest: Any, **named: Any) -> Plan:
        if name.startswith("dpmpp_2m:") and len(times) > TEACHERS and not named:
            with suppress(TypeError):
                hash(rest)  # which a guidance by branches has not
                return kept(name, solver, tuple(times), *rest)
        return traced(name, solver, times, *rest, **named)

    compile.trace_plan = once


def _time_in_short_turns() -> None:
    """Turns of a tenth of a second are long enough if nobody reads the times."""
    assert cost.TURN_SECONDS == timed_process.TURN_SECONDS  # imported before, so that estimates are of real turns
    contender_process.WARM_UP, timed_process.TURN_SECONDS = 0.005, 0.02
    estimate.LEAST_REPEATED = inf  # on a busy machine, tests that count calls would count repeated ones
    whole_call.TimedProcess = companion_times.TimedProcess = TimedHere  # type: ignore[misc,assignment]


_time_in_short_turns()
_read_sources_once()  # ahead of the folders' own conftest.py, whose imports take the function by its name
_compile_teachers_once()


def pytest_collection_finish() -> None:
    """Modules and tests live to the end, so the garbage collector need not visit them again and again."""
    FROZEN[0] = len(sys.modules)
    gc.freeze()


def pytest_runtest_teardown() -> None:
    """Nor the thousand modules that the first export imports."""
    if len(sys.modules) > FROZEN[0] + 500:
        FROZEN[0] = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group tests for `pytest -n 2 --dist loadgroup`: tests of one file share a process, and so what they prepare.

    An export that several files use, or the tests of one family of denoisers, brings all of these into one process.
    Large groups run first. Files of few exports form one group, so that the last one does not occupy a process alone.
    """
    tests = Counter(item.path for item in items)
    shared = {item.path: name for item in items for name in EXPORTED.intersection(getattr(item, "fixturenames", ()))}
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            are_few = EXPORTS in item.path.parents and tests[item.path] < FEW
            file = shared.get(item.path) or ("exports" if are_few else item.nodeid.partition("::")[0])
            item.add_marker(pytest.mark.xdist_group(_family(item) or file))


def _family(item: pytest.Item) -> str | None:
    """Return the family that a test is about, from its parameters."""
    parameters = getattr(item, "callspec", None)
    if parameters is None or "families" not in item.nodeid:
        return None
    about = parameters.params.get("family") or parameters.params.get("case")
    name = getattr(about, "stem", None) or getattr(about, "family", about)
    return name if isinstance(name, str) else None


X_SHAPE = (1, 4, 4)
LABELS = ("shirt", "dress", "bag")
NULL = len(LABELS)
LABEL_SHIFT = np.array([[0.1], [0.2], [0.3], [0.0]], np.float32)  # one per label, the last for "no condition"
GROUP_SCALE = np.array([0.5, 0.25], np.float32)  # the "int8" body multiplies its output by one of them
GROUP_EDGE = 0.0  # lambda


def prologue() -> Graph:
    """row = LABEL_SHIFT[label] + time / 1000."""
    return small(
        [value("time", "batch"), value("label", "batch", dtype="int64")],
        [value("row", "batch", 1)],
        [
            node("Gather", "table label", "shift"),
            node("Unsqueeze", "time axes", "column"),
            node("Mul", "column thousandth", "scaled"),
            node("Add", "shift scaled", "row"),
        ],
        table=LABEL_SHIFT,
        axes=np.array([1]),
        thousandth=1e-3,
    )


def body(*, grouped: bool) -> Graph:
    """v = x / 2 + row, and with groups v * GROUP_SCALE[group]."""
    group = [value("group", 1, dtype="int64")] if grouped else []
    scaled = [node("Gather", "scales group", "scale"), node("Mul", "sum scale", "v")] if grouped else []
    return small(
        [value("x", "batch", *X_SHAPE), value("row", "batch", 1), *group],
        [value("v", "batch", *X_SHAPE)],
        [
            node("Mul", "x half", "halved"),
            node("Reshape", "row planes", "plane"),
            node("Add", "halved plane", "sum" if grouped else "v"),
            *scaled,
        ],
        half=0.5,
        planes=np.array([-1, 1, 1, 1]),
        **({"scales": GROUP_SCALE} if grouped else {}),
    )


def write_bundle(folder: Path) -> Path:
    return write_graphs(
        folder,
        {"prologue": prologue(), "body": body(grouped=False), "int8": body(grouped=True)},
        {"float32": {}, "int8-cpu-x86": {"graph": "int8", "groups": (GROUP_EDGE,)}},
        conditions=(Condition("class", input="label", null=NULL, low=0, high=NULL - 1, labels=LABELS),),
        schedule=ScheduleSpec("cosine", timesteps=100),
        provenance=Provenance("tiny", "0" * 64, {}, ()),
    )


IN_FLOAT = Coverage(0, 1, (), ())


def with_earlier(body: Body, graph: GraphEntry, coverage: Coverage = IN_FLOAT, group: int = 1) -> Body:
    """Return the body with another graph for the steps of its range groups below `group`."""
    first = msgspec.structs.asdict(graph) | {"coverage": coverage, "until": body.groups[group - 1]}
    return msgspec.structs.replace(body, graphs=(StepGraph(**first), body.graph))


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Path:
    """v-prediction, cosine schedule with 100 timesteps, three labels and a null class; float32 and "int8" bodies."""
    return write_bundle(tmp_path / "tiny")


@pytest.fixture(scope="session")
def exported_fashion_mnist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model's float32 bundle, exported once; copy it before changing it."""
    pytest.importorskip("torch", reason="torch, which exports the shipped model, is not installed")
    from fewstep.export.export import export
    from fewstep.export.export_options import ExportOptions

    folder = tmp_path_factory.mktemp("exported") / "bundle"
    export(ExportOptions("fashion_mnist", folder))
    return folder


@pytest.fixture(scope="session")
def layers_of_experts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tests.bundle_of_experts`, exported once; copy it before changing it."""
    pytest.importorskip("torch")
    from tests.bundle_of_experts import export_layers

    return export_layers(tmp_path_factory.mktemp("experts"))


@pytest.fixture(scope="session")
def exported_light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tests.bundle_with_light_network`, exported once; copy it before changing it."""
    pytest.importorskip("torch")
    from tests.bundle_with_light_network import export_light

    return export_light(tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="session")
def exported_tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tests.export.networks.token_denoiser`, exported once; copy it before changing it."""
    pytest.importorskip("torch")
    from tests.export.networks import token_denoiser

    return _export_network(token_denoiser, tmp_path_factory.mktemp("tokens"), "quick")


@pytest.fixture(scope="session")
def exported_carrying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tests.export.networks.carrying_denoiser`, exported once; copy it before changing it."""
    pytest.importorskip("torch")
    from tests.export.networks import carrying_denoiser

    return _export_network(carrying_denoiser, tmp_path_factory.mktemp("carrying"), "full")


def _export_network(network: ModuleType, folder: Path, verify: Literal["full", "quick"]) -> Path:
    from fewstep.export.export import export
    from fewstep.export.export_options import ExportOptions

    export(ExportOptions(f"{network.__file__}:make", folder / "bundle", verify=verify))
    return folder / "bundle"


@pytest.fixture(scope="session")
def unmade(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of one test each, by name, that do not exist yet, since `mktemp` would list all existing ones."""
    folder, numbers = tmp_path_factory.mktemp("tests"), count()
    return lambda name: folder / f"{name}-{next(numbers)}"


@pytest.fixture
def tmp_path(unmade: Callable[[str], Path], request: pytest.FixtureRequest) -> Path:
    """pytest's fixture, in a fourth of the time after a thousand tests."""
    path = unmade(re.sub(r"\W", "_", request.node.name)[:30])
    path.mkdir(mode=0o700)
    return path


@pytest.fixture(autouse=True)
def private_cache(unmade: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """fewstep's cache folder is a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(unmade("cache")))
