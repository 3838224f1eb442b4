"""The engines of a body: the fastest correct one on this machine, measured once."""

import weakref
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.measure.speed.contender_process import Opener
from fewstep.measure.speed.duel import Duel
from fewstep.measure.speed.timed_process import ContenderDied
from fewstep.plans.errors import UserError
from fewstep.report.choosing import engines as measured
from fewstep.report.choosing import measurement_cache
from fewstep.report.choosing.engines import TimedEngine, engine_name, find_fastest_engine, make_backend
from fewstep.runtime import load
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.machine import cache
from tests.bundles import change_bundle
from tests.refusals import refuses

CANDIDATES = [measured.TimedEngine(name, threads, None) for name in ("onnxruntime", "openvino") for threads in (0, 1)]


def fastest(path: Path, body: str = "float32", batch: int = 1) -> TimedEngine:
    return find_fastest_engine(open_bundle(path), body, batch, backends=measured.BACKENDS)


def left_out_engines(path: Path, body: str = "float32", batch: int = 1) -> dict[str, str]:
    """Return the reasons why backends are left out."""
    found = measured._measure_engines(open_bundle(path), body, measured.candidate_engines(0, 1), {"batch": batch})[1]
    return {name: str(error) for name, error in found.items()}


def put(monkeypatch: pytest.MonkeyPatch, engines: Mapping[str, object], other: object = None) -> None:
    """Replace the engines by these, by name; any other name opens `other`."""
    monkeypatch.setattr(measured, "NAMED", engines)
    monkeypatch.setattr(measured, "BACKENDS", tuple(engines))
    monkeypatch.setattr(measured, "create_backend", lambda name, threads: engines.get(name, other))


def kept_files() -> int:
    folder = cache.folder() / "choices"
    return len([*folder.iterdir()]) if folder.is_dir() else 0


@dataclass(frozen=True)
class Engine:
    """onnxruntime under another name, with outputs that are off by `error`."""

    error: float = 0.0
    missing: bool = False
    full: str = ""

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return {"float32": ("float32",), "int8": ("int8-cpu-x86",)}

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        if self.missing:
            raise UserError("this engine is not installed", "pip install engine")
        if self.full == "load":
            raise UserError("the engine cannot be made ready", "free GPU memory")
        network = OnnxRuntime().load(bundle, name)

        def call(feeds: Arrays) -> dict[str, np.ndarray]:
            if self.full == "call":
                raise UserError("the device has no memory left", "free some")
            return {name: value + np.float32(self.error) for name, value in network(feeds).items()}

        return call


class InThisProcess(AbstractContextManager["InThisProcess"]):
    """A contender whose engine a test has set."""

    has_failed = False

    def __init__(self, name: str, opener: Opener) -> None:
        self.name, self.calls = name, opener()

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self.calls = {}

    def run_call(self) -> Any:
        return self.calls[""]()

    def median_milliseconds(self) -> float:
        return 5.0


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The engines "onnxruntime" (threads 0 and 1, and 0 without spinning), "fast", "wrong" and "missing", with these
    times for the raced ones, in this order.
    """
    found = [5.0, 6.0, 7.0, 2.0]
    engines: dict[str, Callable[[int], object]] = {
        "onnxruntime": lambda threads: OnnxRuntime(threads=threads),
        "fast": lambda threads: Engine(),
        "wrong": lambda threads: Engine(error=100.0),
        "missing": lambda threads: Engine(missing=True),
    }
    monkeypatch.setattr(measured, "NAMED", engines)
    monkeypatch.setattr(measured, "BACKENDS", tuple(engines))
    monkeypatch.setattr(measured, "create_backend", lambda name, threads: engines[name](threads))
    monkeypatch.setattr(measured, "usable_threads", lambda: 2)
    monkeypatch.setattr(measured, "default_threads", lambda: 2)

    raced: list[Callable[[], object]] = []

    def met(*calls: Callable[[], object]) -> Duel:
        if calls[0] not in raced:
            raced.clear()
        for call in calls:
            call()
            if call not in raced:
                raced.append(call)
        first, second = (found[raced.index(call)] for call in calls)
        return Duel(first, second, second / first)

    monkeypatch.setattr(measured, "run_duel", met)
    monkeypatch.setattr(measured, "TimedProcess", InThisProcess)
    return found


def test_the_fastest_that_is_right_is_chosen(tiny_bundle: Path, times: list[float]) -> None:
    best = fastest(tiny_bundle, "int8-cpu-x86", batch=4)
    assert best == TimedEngine("fast", 0, 2.0)
    reasons = left_out_engines(tiny_bundle, "int8-cpu-x86", batch=4)
    assert "differ from onnxruntime's by" in reasons["wrong"]
    assert reasons["missing"] == "this engine is not installed; pip install engine"
    with load(tiny_bundle, body="int8-cpu-x86", backend=make_backend(best, 4)) as sampler:
        assert sampler.sample("ddim:2", [0], {"class": [0]}).shape == (1, 1, 4, 4)


def test_the_choice_is_compiled_for_its_batch(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When measured, and when read from the stored times."""
    loaded: list[int] = []

    class Compiled(OpenVino):
        def load(self, bundle: Bundle, name: str) -> LoadedGraph:
            loaded.append(self.batch)
            return OnnxRuntime().load(bundle, name)

    put(monkeypatch, {"onnxruntime": OnnxRuntime(), "openvino": Compiled()})
    times[:] = [5.0, 6.0, 7.0, 2.0, 3.0]
    for _ in range(2):
        assert make_backend(fastest(tiny_bundle, batch=4), 4) == Compiled(batch=4)
    assert loaded == [4, 4]  # with its two counts of threads


def test_a_choice_is_kept_for_the_machine_the_body_and_the_batch(tiny_bundle: Path, times: list[float]) -> None:
    first = fastest(tiny_bundle, "int8-cpu-x86", batch=4)
    times[:] = [1.0, 6.0, 7.0, 2.0]
    assert fastest(tiny_bundle, "int8-cpu-x86", batch=4) == first
    assert fastest(tiny_bundle, "int8-cpu-x86", batch=8).backend == "onnxruntime"
    assert fastest(tiny_bundle, "float32", batch=4).backend == "onnxruntime"
    assert kept_files() == 3


@pytest.mark.parametrize(
    ("fact", "other"),
    [("package_versions", lambda: {"onnxruntime": "9.9"}), ("digest_code", lambda packages: b"an edit")],
)
def test_another_version_or_code_measures_again(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch, fact: str, other: object
) -> None:
    fastest(tiny_bundle)
    monkeypatch.setattr(measurement_cache, fact, other)
    times[:] = [1.0, 6.0, 7.0, 2.0]
    assert fastest(tiny_bundle).backend == "onnxruntime"


@pytest.mark.parametrize("full", ["load", "call"])
def test_a_failure_that_may_pass_is_not_kept(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    put(monkeypatch, engines := {"onnxruntime": OnnxRuntime(), "fast": Engine(full=full)})
    times[:] = [5.0, 6.0, 7.0]
    assert fastest(tiny_bundle).backend == "onnxruntime"
    assert kept_files() == 0
    engines["fast"], times[:] = Engine(), [5.0, 6.0, 7.0, 2.0]
    assert fastest(tiny_bundle).backend == "fast"
    assert kept_files() == 1


def test_a_reference_whose_process_died_refuses_for_once(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying(InThisProcess):
        def run_call(self) -> Any:
            if self.name == "onnxruntime":
                raise ContenderDied("the process of onnxruntime was killed", "run it alone")
            return super().run_call()

    put(monkeypatch, {"fast": Engine()}, OnnxRuntime())
    monkeypatch.setattr(measured, "TimedProcess", Dying)
    with refuses(("onnxruntime", "killed")):
        fastest(tiny_bundle)
    assert kept_files() == 0


def test_what_was_kept_and_is_damaged_is_measured_again(tiny_bundle: Path, times: list[float]) -> None:
    fastest(tiny_bundle)
    (file,) = (cache.folder() / "choices").iterdir()
    file.write_bytes(b"{")
    assert fastest(tiny_bundle).backend == "fast"


def test_a_damaged_graph_is_named_before_an_engine_is_asked(tiny_bundle: Path, times: list[float]) -> None:
    (tiny_bundle / "graphs/int8.onnx").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"^\S+: file graphs/int8.onnx is damaged"):
        fastest(tiny_bundle, "int8-cpu-x86")
    assert kept_files() == 0


def test_without_onnxruntime_the_others_are_measured(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missing = {"onnxruntime": Engine(missing=True), "missing": Engine(missing=True)}
    put(monkeypatch, {"onnxruntime": missing["onnxruntime"], "fast": Engine(), "missing": missing["missing"]})
    monkeypatch.setattr(measured, "this_onnxruntime", lambda: None)
    monkeypatch.setattr(measured, "OnnxRuntime", None)
    times[:] = [2.0]
    assert fastest(tiny_bundle).backend == "fast"
    assert "are not checked against it" in caplog.text
    put(monkeypatch, missing)
    with pytest.raises(UserError) as caught, caplog.at_level("INFO", "fewstep"):
        fastest(tiny_bundle, "int8-cpu-x86")
    what = f"no engine here runs int8-cpu-x86 of {tiny_bundle}: onnxruntime: this engine is not installed"
    assert str(caught.value) == f"{what}; pip install engine (other engines: --verbose)"
    assert "missing does not run int8-cpu-x86: this engine is not installed; pip install engine" in caplog.text


def test_the_reason_is_of_the_platform_s_engine(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = {"fast": Engine(missing=True), "onnxruntime": Engine(full="load")}
    for said in ("onnxruntime: the eng", "fast: this engine"):
        put(monkeypatch, engines)
        with pytest.raises(UserError, match=rf"no engine here runs int8-cpu-x86 of \S+: {said}"):
            fastest(tiny_bundle, "int8-cpu-x86")
        engines.pop("onnxruntime", None)
    absent = UserError("onnxruntime cannot be imported (no module)", "pip install it")
    refused = {"onnxruntime": absent, "fast": UserError("no engine", "build one")}
    assert ": fast: no engine; build one" in str(
        measured._explain_no_engine(open_bundle(tiny_bundle), "float32", refused)
    )
    assert "does not time any engine that runs float32" in str(
        measured._explain_no_engine(open_bundle(tiny_bundle), "float32", {})
    )


@pytest.mark.parametrize(
    ("gpu", "said"),
    [
        (False, "runs on NVIDIA GPUs only, and nvidia-smi lists none here"),
        (True, "tensorrt: tensorrt cannot be imported; pip install it (other engines: --verbose)"),
    ],
)
def test_no_package_is_advised_for_a_gpu_that_is_not_there(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, gpu: bool, said: str
) -> None:
    monkeypatch.setattr(measured, "has_gpu", lambda: gpu)
    bodies = open_bundle(tiny_bundle).manifest.bodies
    made = msgspec.structs.replace(bodies["int8-cpu-x86"], target="tensorrt")
    bundle = open_bundle(change_bundle(tiny_bundle, bodies={**bodies, "int8-tensorrt": made}))
    absent = UserError("tensorrt cannot be imported", "pip install it")
    assert str(measured._explain_no_engine(bundle, "int8-tensorrt", {"tensorrt": absent})).endswith(said)


def test_a_second_onnxruntime_is_opened_for_another_body_alone(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reference judges every engine of a body, and onnxruntime does not judge itself. float32 is run if int8
    differs.
    """
    opened: list[str] = []

    class Counted(OnnxRuntime):
        def load(self, bundle: Bundle, name: str) -> LoadedGraph:
            opened.append(name)
            return super().load(bundle, name)

    put(monkeypatch, {"fast": Engine(), "again": Engine(), "wrong": Engine(error=100.0)}, Counted())
    times[:] = [2.0, 3.0]
    assert fastest(tiny_bundle, "int8-cpu-x86", batch=3).backend == "fast"
    assert opened == ["int8-cpu-x86", "float32"]


@pytest.mark.parametrize(
    "found, chosen, said",
    [
        ([5.0, 4.0, 6.0, 9.0], OnnxRuntime(threads=1), "onnxruntime, 1 thread"),
        ([5.0, 4.0, 3.0, 9.0], OnnxRuntime(spinning=False), "onnxruntime without spinning"),
    ],
)
def test_the_threads_that_are_fastest_are_chosen_and_kept(
    tiny_bundle: Path, times: list[float], found: list[float], chosen: OnnxRuntime, said: str
) -> None:
    times[:] = found
    for _ in range(2):
        best = fastest(tiny_bundle)
        assert make_backend(best, 1) == chosen and best.milliseconds == min(found)
        assert engine_name(best) == said


@pytest.mark.parametrize("dies", ["onnxruntime", "fast"])
def test_one_that_dies_in_a_duel_is_refused_and_the_other_goes_on(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    met = measured.run_duel

    def dying(*calls: Any) -> Duel:
        failed = next((call.__self__ for call in calls if call.__self__.name.startswith(dies)), None)
        if failed is None or len({call.__self__.name[:4] for call in calls}) == 1:
            return met(*calls)
        failed.has_failed = True
        raise ContenderDied(f"the process of {dies} was killed", "run it alone")

    monkeypatch.setattr(measured, "run_duel", dying)
    assert fastest(tiny_bundle).backend == ("fast" if dies == "onnxruntime" else "onnxruntime")
    assert "was killed" in left_out_engines(tiny_bundle)[dies] and kept_files() == 0


def test_what_is_slower_is_closed_before_the_next_is_loaded(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are open at once: the best so far, and the next one."""
    networks: list[weakref.ref[LoadedGraph]] = []
    alive: list[list[int]] = []

    class Watched(OnnxRuntime):
        def load(self, bundle: Bundle, name: str) -> LoadedGraph:
            alive.append([place for place, network in enumerate(networks) if network() is not None])
            network = super().load(bundle, name)
            networks.append(weakref.ref(network))
            return network

    speeds = iter([Duel(5.0, 6.0, 1.2), Duel(5.0, 4.0, 0.8), Duel(4.0, 9.0, 2.25)])
    put(monkeypatch, {"onnxruntime": Watched(), "openvino": Watched()})
    monkeypatch.setattr(measured, "candidate_engines", lambda threads, rows: iter([*CANDIDATES]))
    monkeypatch.setattr(measured, "run_duel", lambda *calls: next(speeds))
    assert fastest(tiny_bundle) == TimedEngine("openvino", 0, 4.0)
    assert alive == [[], [0], [0], [2]]


def test_engines_are_timed_in_processes_of_their_own(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine whose process dies is left out with a line, and is tried again the next time."""
    monkeypatch.setattr(measured, "candidate_engines", lambda threads, rows: iter(CANDIDATES[:2]))
    monkeypatch.setattr("fewstep.measure.speed.duel.DUEL_SECONDS", 0.5)
    best = fastest(tiny_bundle)
    assert best.threads in (0, 1) and 0 < (best.milliseconds or 0) < 1000
    assert kept_files() == 1
    monkeypatch.setattr("fewstep.measure.workers.child.PROCESS", tiny_bundle / "manifest.json")
    with pytest.raises(UserError, match=r"no engine here runs float32 of \S+: onnxruntime: the process of \S+ ended "):
        fastest(tiny_bundle, batch=2)
    assert kept_files() == 1


def test_coarse_int8_is_not_wrong_where_it_is_as_near_to_float32(tiny_bundle: Path) -> None:
    """An engine that rounds at other places may differ by 0.16 if int8 itself is off by 0.2, but not otherwise."""
    exact = {"output": np.array([1.0, 0.0], np.float32), "not asked": np.ones(3, np.float32)}
    here = {"output": np.array([0.8, 0.0], np.float32)}
    own, wrong = ({"output": np.array([0.96, each], np.float32)} for each in (0.0, 0.4))

    def compare(body: str, outputs: Arrays, floats: Arrays = exact) -> None:
        check = measured._Check(open_bundle(tiny_bundle), body, {})
        check._expected = {"float32": floats, body: here}
        check("fast", outputs)

    compare("int8-cpu-x86", own)
    for body, outputs, floats in (("int8-cpu-x86", wrong, exact), ("int8-cpu-x86", own, here), ("float32", own, exact)):
        with pytest.raises(UserError, match="differ from onnxruntime's by"):
            compare(body, outputs, floats)
