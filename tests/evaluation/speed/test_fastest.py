"""`--backend auto`: the fastest of what runs here and is right, measured once on a machine."""

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.cli import run as cli_run
from fewstep.cli.main import main
from fewstep.evaluation.speed import fastest
from fewstep.evaluation.speed.duel import Duel
from fewstep.evaluation.speed.fastest import choice_line, kept_here
from fewstep.plans.errors import UserError
from fewstep.runtime import load
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampler import Sampler
from tests.free_bundle import free

CANDIDATES = [fastest.Timed(name, threads, "", None) for name in ("onnxruntime", "openvino") for threads in (0, 1)]


@dataclass(frozen=True)
class Engine:
    """onnxruntime under another name, whose outputs are off by `error`."""

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


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The engines "onnxruntime" (threads 0 and 1, and 0 without spinning), "fast", "wrong" and "missing"; the times of
    those that are raced, in this order."""
    found = [5.0, 6.0, 7.0, 2.0]
    engines: dict[str, Callable[[int], object]] = {
        "onnxruntime": lambda threads: OnnxRuntime(threads=threads),
        "fast": lambda threads: Engine(),
        "wrong": lambda threads: Engine(error=100.0),
        "missing": lambda threads: Engine(missing=True),
    }
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name](threads))
    cpu = msgspec.structs.replace(fastest.this_cpu(), cores=2)
    monkeypatch.setattr(fastest, "this_cpu", lambda: cpu)
    monkeypatch.setattr(fastest, "physical_cores", lambda: 2)

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

    monkeypatch.setattr(fastest, "duel", met)
    monkeypatch.setattr(fastest, "milliseconds", lambda call: found[0])
    return found


def test_the_fastest_that_is_right_is_chosen(tiny_bundle: Path, times: list[float]) -> None:
    choice = fastest.fastest(tiny_bundle, "int8", batch=4)
    timed = [(each.backend, each.threads, each.milliseconds) for each in choice.kept.timed]
    assert timed[:3] == [("fast", 0, 2.0), ("onnxruntime", 0, 5.0), ("onnxruntime", 1, 6.0)]
    refused = {each.backend: each.reason for each in choice.kept.timed[4:]}
    assert "differs from onnxruntime by" in refused["wrong"]
    assert refused["missing"] == "this engine is not installed; pip install engine"
    with load(tiny_bundle, body=choice.body, backend=choice.backend) as sampler:
        assert sampler.sample("ddim:2", [0], {"class": [0]}).shape == (1, 1, 4, 4)


def test_the_choice_is_compiled_for_its_batch(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured, and read from what was kept."""
    loaded: list[int] = []

    class Compiled(OpenVino):
        def load(self, bundle: Bundle, name: str) -> LoadedGraph:
            loaded.append(self.batch)
            return OnnxRuntime().load(bundle, name)

    engines = {"onnxruntime": OnnxRuntime(), "openvino": Compiled()}
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name])
    times[:] = [5.0, 6.0, 7.0, 2.0, 3.0]
    for _ in range(2):
        assert fastest.fastest(tiny_bundle, batch=4).backend == Compiled(batch=4)
    assert loaded == [4, 4]  # with its two counts of threads


@pytest.mark.parametrize("batch", [0, -1])
def test_a_batch_below_one_is_refused(tiny_bundle: Path, batch: int) -> None:
    with pytest.raises(UserError, match=f"^a batch of {batch}; give at least 1$"):
        fastest.fastest(tiny_bundle, batch=batch)


def test_a_choice_is_kept_for_the_machine_the_body_and_the_batch(tiny_bundle: Path, times: list[float]) -> None:
    first = fastest.fastest(tiny_bundle, "int8", batch=4)
    times[:] = [1.0, 6.0, 7.0, 2.0]
    assert fastest.fastest(tiny_bundle, "int8", batch=4).kept == first.kept
    assert fastest.fastest(tiny_bundle, "int8", batch=8).kept.timed[0].backend == "onnxruntime"
    assert fastest.fastest(tiny_bundle, "float32", batch=4).kept.timed[0].body == "float32"
    assert [(each.precision, each.batch) for each in kept_here()] == [("int8", 4), ("int8", 8), ("float32", 4)]


def test_another_version_or_processor_measures_again(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest.fastest(tiny_bundle)
    monkeypatch.setattr(fastest, "installed", lambda: {"onnxruntime": "9.9"})
    assert kept_here() == ()
    times[:] = [1.0, 6.0, 7.0, 2.0]
    assert fastest.fastest(tiny_bundle).kept.timed[0].backend == "onnxruntime"


def test_an_edit_of_fewstep_measures_again(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest.fastest(tiny_bundle)
    assert len(kept_here()) == 1
    monkeypatch.setattr(fastest, "code_of", lambda packages: b"another")
    assert kept_here() == ()


@pytest.mark.parametrize("full", ["load", "call"])
def test_a_failure_that_may_pass_is_not_kept(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    engines = {"onnxruntime": OnnxRuntime(), "fast": Engine(full=full)}
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name])
    times[:] = [5.0, 6.0, 7.0]
    assert fastest.fastest(tiny_bundle).kept.timed[0].backend == "onnxruntime"
    assert kept_here() == ()
    engines["fast"], times[:] = Engine(), [5.0, 6.0, 7.0, 2.0]
    assert fastest.fastest(tiny_bundle).kept.timed[0].backend == "fast"
    assert len(kept_here()) == 1


def test_the_machine_is_looked_at_once_for_all_choices(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for batch in (1, 2, 3):
        fastest.fastest(tiny_bundle, batch=batch)
    looked: list[None] = []
    monkeypatch.setattr(fastest, "these_gpus", lambda: looked.append(None) or ())
    assert len(kept_here()) == 3 and len(looked) == 1


def test_what_was_kept_and_is_damaged_is_measured_again(tiny_bundle: Path, times: list[float]) -> None:
    fastest.fastest(tiny_bundle)
    (file,) = (fastest.cache.folder() / "fastest").iterdir()
    file.write_bytes(b"{")
    assert kept_here() == ()
    assert fastest.fastest(tiny_bundle).kept.timed[0].backend == "fast"


def test_a_body_of_another_plan_is_left_out_where_one_is_of_this(tiny_bundle: Path, times: list[float]) -> None:
    path = tiny_bundle / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    other = manifest["bodies"]["int8-cpu-x86"] | {"plan": "ddim:4"}
    manifest["bodies"] |= {"int8-cpu-x86": other, "int8-openvino": other | {"plan": "ddim:8", "target": "openvino"}}
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(UserError, match="int8-cpu-x86 was calibrated along ddim:4"):
        fastest.fastest(tiny_bundle, "int8", plan="ddim:8")
    assert fastest.fastest(tiny_bundle, "int8", plan="ddim:4").body == "int8-cpu-x86"
    assert fastest.fastest(tiny_bundle, "int8", plan="dpmpp_2m:3").body == "int8-cpu-x86"


def test_a_precision_without_a_body_is_one_line_with_its_command(tiny_bundle: Path, times: list[float]) -> None:
    path = tiny_bundle / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(manifest | {"bodies": {"float32": manifest["bodies"]["float32"]}}))
    for precision, fix in (("int8", "calibrate {}"), ("float16", "build {} --precision float16")):
        with pytest.raises(UserError) as caught:
            fastest.fastest(tiny_bundle, precision)
        assert str(caught.value) == f"{tiny_bundle} has no {precision} body; fewstep {fix.format(tiny_bundle)}"
    with pytest.raises(UserError, match="^unknown precision 'int4'; choose one of float32, float16, int8$"):
        fastest.fastest(tiny_bundle, "int4")


def test_a_bundle_without_float32_is_asked_for_the_precision_that_it_has(tiny_bundle: Path) -> None:
    path = tiny_bundle / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    del manifest["bodies"]["float32"]
    path.write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(UserError, match=r"has no float32 body; choose precision int8 \(--precision"):
        fastest.fastest(tiny_bundle)


def test_a_damaged_graph_of_one_engine_is_named_each_time(
    tiny_bundle: Path, times: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are measured; nothing is kept."""

    class Other(Engine):
        @property
        def bodies(self) -> Mapping[str, tuple[str, ...]]:
            return {"int8": ("int8-openvino",)}

    path = tiny_bundle / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    body = manifest["bodies"]["int8-cpu-x86"]
    graph = body["graph"] | {"file": "other.onnx"}
    manifest["bodies"]["int8-openvino"] = body | {"target": "openvino", "graph": graph}
    manifest["files"]["other.onnx"] = "0" * 64
    path.write_bytes(msgspec.json.encode(manifest))
    (tiny_bundle / "other.onnx").write_bytes(b"damaged")
    engines = {"onnxruntime": OnnxRuntime(), "fast": Other()}
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name])
    for _ in range(2):
        caplog.clear()
        choice = fastest.fastest(tiny_bundle, "int8")
        assert choice.kept.timed[0].backend == "onnxruntime" and choice.file is None
        assert "fast is left out" in caplog.text and "other.onnx is damaged" in caplog.text
    assert kept_here() == ()


def test_without_onnxruntime_the_others_are_measured(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engines = {"onnxruntime": Engine(missing=True), "fast": Engine(), "missing": Engine(missing=True)}
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name])
    monkeypatch.setattr(fastest, "this_onnxruntime", lambda: None)
    monkeypatch.setattr(fastest, "OnnxRuntime", None)
    times[:] = [2.0]
    assert [each.backend for each in fastest.fastest(tiny_bundle).kept.timed if not each.reason] == ["fast"]
    assert "no other engine is compared" in caplog.text
    del engines["fast"]
    with pytest.raises(UserError) as caught:
        fastest.fastest(tiny_bundle, "int8")
    said = "this engine is not installed; pip install engine"
    assert f"(onnxruntime: {said}; missing: {said})" in str(caught.value)


def test_run_and_doctor_say_what_was_chosen(
    tiny_bundle: Path, times: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", str(tiny_bundle), "--backend", "auto", "-n", "2", "-c", "class=bag", "-v"]
    assert main([*line, "-o", str(tmp_path / "samples.npy")]) == 0
    (kept,) = kept_here()
    said = capsys.readouterr()
    (file,) = fastest.kept_in().iterdir()
    assert f"backend: {choice_line(kept)}" in said.err and f"to measure again, delete {file}" in said.err
    assert choice_line(kept).startswith("fast with float32 2.00 ms a call; then onnxruntime with float32 5.00 ms")
    main(["doctor"])
    assert f"auto       tiny in float32, batch 2, {kept.day}: fast" in (listed := capsys.readouterr().out)
    assert f"delete its file in {file.parent}" in listed


def test_the_document_of_a_run_has_the_choice(
    tiny_bundle: Path, times: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["run", str(tiny_bundle), "-n", "2", "-c", "class=bag", "--json", "-o", str(tmp_path / "samples.npy")]
    assert main([*line, "--backend", "auto"]) == 0
    (kept,) = kept_here()
    assert msgspec.json.decode(capsys.readouterr().out)["choice"] == msgspec.json.decode(msgspec.json.encode(kept))
    assert main(line) == 0
    assert "choice" not in msgspec.json.decode(capsys.readouterr().out)


def test_auto_is_among_the_backends_of_a_wrong_name(tiny_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tiny_bundle), "--backend", "Auto"]) != 0
    assert "unknown backend 'Auto'; choose one of auto, onnxruntime, onnxruntime-cuda" in capsys.readouterr().err


def test_what_is_measured_is_the_batch_that_runs(
    tiny_bundle: Path, times: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four samples of 16 elements fit a call; guidance has two rows of each."""
    monkeypatch.setattr(cli_run, "BATCH_ELEMENTS", 64)
    rows, call = [], Sampler.call

    def counted(sampler: Sampler, x: np.ndarray, *rest: Any) -> np.ndarray:
        rows.append(len(x))
        return call(sampler, x, *rest)

    monkeypatch.setattr(Sampler, "call", counted)
    for guidance in ("7", "1"):
        line = ["run", str(tiny_bundle), "--backend", "auto", "-n", "8", "-c", "class=bag", "--guidance", guidance]
        assert main([*line, "--plan", "ddim:2", "-o", str(tmp_path / "samples.npy")]) == 0
    assert rows == [8, 8, 8, 8, 4, 4, 4, 4]
    assert [kept.batch for kept in kept_here()] == [8, 4]


def test_sizes_are_measured_each(tiny_bundle: Path, times: list[float]) -> None:
    bundle = free(tiny_bundle)
    for height in (6, 4):
        fastest.fastest(bundle, sizes={"height": height})
    fastest.fastest(bundle)
    assert [kept.sizes for kept in kept_here()] == [{"height": height, "width": 4} for height in (6, 4)]
    with pytest.raises(UserError, match="height 7 is no multiple of 2"):
        fastest.fastest(bundle, sizes={"height": 7})


def test_a_second_onnxruntime_is_opened_for_another_body_alone(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One reference judges every engine of a body, and onnxruntime is not judged by itself."""
    opened: list[str] = []

    class Counted(OnnxRuntime):
        def load(self, bundle: Bundle, name: str) -> LoadedGraph:
            opened.append(name)
            return super().load(bundle, name)

    monkeypatch.setattr(fastest, "OnnxRuntime", Counted)
    fastest.fastest(tiny_bundle, "int8")
    assert opened == []
    engines = {"fast": Engine(), "again": Engine(), "wrong": Engine(error=100.0)}
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name])
    times[:] = [2.0, 3.0]
    kept = fastest.fastest(tiny_bundle, "int8", batch=3).kept
    assert opened == ["int8-cpu-x86"] and [each.backend for each in kept.timed] == ["fast", "again", "wrong"]


@pytest.mark.parametrize(
    "found, chosen, said",
    [
        ([5.0, 4.0, 6.0, 9.0], OnnxRuntime(threads=1), "onnxruntime, 1 thread with float32 4.00 ms a call"),
        ([5.0, 4.0, 3.0, 9.0], OnnxRuntime(spinning=False), "onnxruntime without spinning with float32 3.00 ms a call"),
    ],
)
def test_the_threads_that_are_fastest_are_chosen_and_kept(
    tiny_bundle: Path, times: list[float], found: list[float], chosen: OnnxRuntime, said: str
) -> None:
    times[:] = found
    for _ in range(2):
        choice = fastest.fastest(tiny_bundle)
        assert choice.backend == chosen
        assert choice_line(choice.kept).startswith(said)


def test_what_is_slower_is_closed_before_the_next_is_loaded(
    tiny_bundle: Path, times: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two are open at once: the best so far, and the next."""
    networks: list[weakref.ref[LoadedGraph]] = []
    alive: list[list[int]] = []

    class Watched(OnnxRuntime):
        def load(self, bundle: Bundle, name: str) -> LoadedGraph:
            alive.append([place for place, network in enumerate(networks) if network() is not None])
            network = super().load(bundle, name)
            networks.append(weakref.ref(network))
            return network

    speeds = iter([Duel(5.0, 6.0, 1.2), Duel(5.0, 4.0, 0.8), Duel(4.0, 9.0, 2.25)])
    engines = {"onnxruntime": Watched(), "openvino": Watched()}
    monkeypatch.setattr(fastest, "NAMED", engines)
    monkeypatch.setattr(fastest, "named", lambda name, threads: engines[name])
    monkeypatch.setattr(fastest, "_candidates", lambda threads: iter([*CANDIDATES]))
    monkeypatch.setattr(fastest, "duel", lambda *calls: next(speeds))
    kept = fastest.fastest(tiny_bundle).kept
    assert alive == [[], [0], [0], [2]]
    assert [each.milliseconds for each in kept.timed] == [4.0, 5.0, 6.0, 9.0]
