"""`fewstep export`: the contents of a bundle, and the state after a failure."""

import json
import shutil
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.export import load_and_trace
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_source import load_source
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.verification import reuse
from fewstep.graph.files.io import load
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.refusals import refuses

MAKE = """
import torch
from torch import nn
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.runtime.bundle.manifest import Condition
from fewstep.plans.spec import ScheduleSpec

class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.label = nn.Embedding(4, 2)

    def forward(self, x, time, label):
        return self.conv(x) * (self.label(label) + time[:, None] / 1000)[:, :, None, None]

def make():
    label = Condition("kind", "label", null=3, low=0, high=2)
    return Denoiser(), Spec("tiny", (2, 4, 4), (label,), "flow", ScheduleSpec("flow"))

def nan():
    module, spec = make()
    module.conv.bias.data[0] = float("nan")
    return module, spec

def wrong():
    return "a module"

def misspelt():
    return Denoiser(), Spec("tiny", (2, 4, 4), (), "eps", ScheduleSpec("flow"))

def leaving():
    import sys
    sys.exit(3)

def failing():
    raise KeyError("weights")
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "my_model.py"
    path.write_text(textwrap.dedent(MAKE))
    return path


@pytest.fixture(scope="module")
def bundle_of_file(file: Path) -> Path:
    """A bundle that tests must not change."""
    export(ExportOptions(f"{file}:make", file.parent / "bundle"))
    return file.parent / "bundle"


def test_a_bundle_holds_the_verified_denoiser(file: Path, bundle_of_file: Path) -> None:
    bundle = open_bundle(bundle_of_file)
    manifest = bundle.manifest
    assert (manifest.name, manifest.x_shape, manifest.prediction) == ("tiny", (2, 4, 4), "flow")
    assert manifest.grid == "arctan"  # the rule's, where the spec names none
    assert b"distilled" not in (bundle_of_file / "manifest.json").read_bytes()  # as bundles of before
    assert manifest.conditions[0].null == 3 and manifest.provenance.source == "my_model.py:make"
    assert str(file.parent) not in (bundle_of_file / "manifest.json").read_text()
    assert manifest.verification is not None and manifest.prologue is not None
    table = json.loads(bundle.read(manifest.verification))
    assert {row["stage"] for row in table["comparisons"]} == {"exported", "prepared", "float16"}
    assert all(row["relative"] < (2e-3 if row["stage"] == "float16" else 1e-6) for row in table["comparisons"])

    given = {"time": np.float32([10, 20]), "label": np.array([1, 3]), "x": np.ones((2, 2, 4, 4), np.float32)}
    rows = run(load(bundle.graph(manifest.prologue)), given)
    output = run(load(bundle.graph(bundle.body("float32").graph)), {**given, **rows})["output"]
    source = load_source(f"{file}:make")
    import torch

    expected = source.module(*(torch.from_numpy(given[name]) for name in ("x", "time", "label")))
    np.testing.assert_allclose(output, expected.detach().numpy(), atol=1e-6)


@pytest.mark.slow
def test_exporting_again_gives_the_same_files_and_says_how_far_it_is(
    file: Path, bundle_of_file: Path, tmp_path: Path
) -> None:
    stages: list[tuple[str, int, int]] = []
    again = export(ExportOptions(f"{file}:make", tmp_path / "b"), lambda *progress: stages.append(progress))
    assert again.files == open_bundle(bundle_of_file).manifest.files
    last = {stage: (done, total) for stage, done, total in stages}
    assert all(done == total for done, total in last.values())
    assert list(last) == ["export", "torch", "exported graph", "prepared graph"]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        ("nan", "weight 'conv.bias' holds NaN"),
        ("wrong", "my_model.py:wrong returned str"),
        ("failing", r"my_model.py:failing failed: KeyError: 'weights' \(line \d+\)"),
        ("misspelt", r"^field 'prediction' of spec 'tiny' is wrong: .*'eps'; give one of epsilon, sample, v, flow, .*"),
        ("leaving", r"my_model.py:leaving failed: SystemExit: 3 \(line \d+\)"),
        ("absent", "my_model.py has no function 'absent'; .*my_model.py has .*misspelt"),
    ],
)
def test_a_failure_leaves_the_old_bundle_or_none(
    file: Path, bundle_of_file: Path, tmp_path: Path, function: str, says: str
) -> None:
    shutil.copytree(bundle_of_file, tmp_path / "old")
    before = {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    for bundle in (tmp_path / "old", tmp_path / "new"):
        with pytest.raises(UserError, match=says):
            export(ExportOptions(f"{file}:{function}", bundle))
    assert before == {path: path.read_bytes() for path in (tmp_path / "old").rglob("*") if path.is_file()}
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "content", "says"),
    [
        ("nothing", "", "'nothing' is not a file.*ORG/NAME\\); give ORG/NAME of .* or one of fashion_mnist"),
        ("FILE", "def mak(x): return x", r"is not FILE.py:FUNCTION; write it as .*py:FUNCTION, .*\.py has mak"),
        ("FILE:", "", "is not FILE.py:FUNCTION"),
        ("absent.py:make", "", "there is no file absent.py"),
        ("FILE:make", "import no_such_package", r"cannot be imported: ModuleNotFoundError.*no_such_package.*line 1"),
        ("FILE:make", "def make(:", r"cannot be imported: SyntaxError.*line 1"),
        ("FILE:make", "raise SystemExit(2)", "cannot be imported: SystemExit: 2"),
        ("FILE:make", "make = 3", "has no function 'make'"),
        ("FILE:make", "def make(): return 1, 2", r"returned \(int, int\)"),
        ("FILE:make", "def make(x): return x", "missing 1 required positional argument"),
    ],
)
def test_a_source_that_is_none_is_refused_in_one_line(tmp_path: Path, text: str, content: str, says: str) -> None:
    file = tmp_path / "source.py"
    file.write_text(content)
    with pytest.raises(UserError, match=says):
        load_source(text.replace("FILE", str(file)))


@pytest.mark.parametrize(
    ("shape", "conditions", "says"),
    [
        ("(3, 4, 4)", "(label,)", r"to have 2 channels, but got 3.*; give the Spec the x_shape .* \[3, 4, 4\]"),
        ("(2, 4, 4)", "()", r"missing 1 .*; add to the conditions of the Spec: Condition\('label', input='label'\)"),
        ("(2, 4, 4)", "(label, other)", r"forward takes x, time, label, but the Spec gives x, time, kind, other"),
        ("(2, 15, 15)", "(label,)", r"[Ss]ize.*; give the Spec the x_shape .*: it has \[2, 15, 15\]"),
    ],
)
def test_a_spec_that_contradicts_its_module_is_what_is_changed(
    tmp_path: Path, shape: str, conditions: str, says: str
) -> None:
    made = f"""
    def make():
        label, other = (Condition(name, name, low=0, high=2) for name in ("kind", "other"))
        return Halving(), Spec("tiny", {shape}, {conditions}, "flow", ScheduleSpec("flow"))

    class Halving(Denoiser):
        def forward(self, x, time, label):
            half = nn.functional.avg_pool2d(super().forward(x, time, label), 2)
            return x + nn.functional.interpolate(half, scale_factor=2)
    """
    (tmp_path / "source.py").write_text(textwrap.dedent(MAKE) + textwrap.dedent(made))
    with pytest.raises(UserError, match=says) as failure:
        export(ExportOptions(f"{tmp_path / 'source.py'}:make", tmp_path / "b"))
    assert "\n" not in str(failure.value) and not (tmp_path / "b").exists()


def test_a_file_may_not_take_the_place_of_a_module_of_python(tmp_path: Path) -> None:
    (tmp_path / "random.py").write_text("def make(): return 1\n")
    with refuses("random.py", "rename the file"):
        load_source(f"{tmp_path / 'random.py'}:make")
    assert str(tmp_path) not in str(sys.modules.get("random"))


@pytest.mark.parametrize(
    ("files", "text", "says"),
    [
        ({"source.py": "def make():\n    return {}['weights']\n"}, "source.py:make", r"KeyError: 'weights' \(line 2\)"),
        ({"C:model/a": ""}, "C:model", "C:model is not a folder of a denoiser"),
        ({"model.onnx/a": ""}, "model.onnx", "model.onnx is not a folder of a denoiser"),
        ({"model.py/a": ""}, "model.py", "model.py is not a folder of a denoiser"),
        ({"text.txt": "hello"}, "text.txt", r"text\.txt is not a file with a denoiser; give ORG/NAME of a hub"),
        (
            {"near.py": "kind = type\n", "source.py": "from near import kind\ndef make(): return kind"},
            "source.py:make",
            "returned type",  # so the import of its neighbour went well
        ),
    ],
)
def test_paths_from_the_working_folder_are_what_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], text: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=says):
        load_source(text)


def test_a_bundle_is_no_source(bundle_of_file: Path) -> None:
    with refuses("bundle", f"fewstep run {bundle_of_file}"):
        load_source(str(bundle_of_file))


def test_a_file_that_is_missing_is_said_before_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # an import of it fails
    with pytest.raises(UserError, match=r"there is no file nowhere\.py"):
        load_source("nowhere.py:make")


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The scope of each verification whose reference is run."""
    scopes, real = list[str](), load_and_trace.record_reference
    monkeypatch.setattr(load_and_trace, "record_reference", lambda *given: scopes.append(given[-1]) or real(*given))
    return scopes


@pytest.mark.slow
def test_a_second_export_of_the_same_graphs_takes_their_verification_over(
    file: Path, tmp_path: Path, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ExportOptions(f"{file}:make", tmp_path / "bundle", verify="quick")
    first = export(options)
    assert export(options) == first and runs == ["quick"]
    full = export(replace(options, verify="full"))
    assert runs == ["quick", "full"] and full.verification != first.verification
    assert export(replace(options, verify="quick")).verification == full.verification and len(runs) == 2
    changed = tmp_path / "changed.py"
    changed.write_text(file.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    export(again := replace(options, source=f"{changed}:make"))
    assert runs[2:] == ["quick"]
    export(replace(again, precision="float16"))
    assert runs[2:] == ["quick"] * 2
    monkeypatch.setattr(reuse, "PACKAGES", reuse.PACKAGES[:-1])  # other code
    verification = export(again).verification
    assert export(again).verification == verification and runs[2:] == ["quick"] * 3


def test_how_it_was_verified_is_in_the_bundle(file: Path, tmp_path: Path) -> None:
    made = export(ExportOptions(f"{file}:make", tmp_path / "bundle", verify="quick"))
    assert "--verify quick" in made.provenance.commands[0] and made.verification is not None
    assert json.loads((tmp_path / "bundle" / made.verification).read_text())["scope"] == "quick"


@pytest.mark.slow
def test_room_is_asked_for_before_anything_is_traced(
    tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, real = list[int](), TorchSource.trace
    monkeypatch.setattr("fewstep.graph.files.commit.Writer.reserve", lambda _, size: asked.append(size))
    monkeypatch.setattr(TorchSource, "trace", lambda source: real(source) if asked else pytest.fail("it was traced"))
    export(ExportOptions(f"{file}:make", tmp_path / "bundle"))
    numbers = 2 * 2 * 9 + 2 + 4 * 2  # weights and bias of the convolution, the labels
    assert asked[0] == 4 * numbers
