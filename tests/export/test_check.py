"""`export --check` refuses a spec that contradicts samples of the data, and names the mistake."""

import logging
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.cli.verbs.export import dry_run
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.load_and_trace import module_evaluator
from fewstep.export.load_source import load_source
from fewstep.export.spec import ScheduleSpec, Source, Spec
from fewstep.graph.graph import TIME, X
from fewstep.measure.spec.spec_samples import measure_data
from fewstep.plans.errors import UserError
from fewstep.plans.grids import trailing
from fewstep.plans.noise import normal_batch
from fewstep.plans.prediction import input_scale, x0_coefficients
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.progress import ESTIMATES
from tests.refusals import refuses

ZOO = Path(__file__).parents[2] / "zoo"
SOURCES = {
    "fashion_mnist": "fashion_mnist",
    "convnext": f"{ZOO / 'convnext_v_cosine.py'}:make",
    "unet": f"{ZOO / 'unet_epsilon_linear.py'}:make",
}
WRONG = '''
import torch
from msgspec.structs import replace
from fewstep.export import ScheduleSpec
from fewstep.export.load_source import load_source

class Changed(torch.nn.Module):
    def __init__(self, module, scale, sign):
        super().__init__()
        self.module, self.scale, self.sign = module, scale, sign

    def forward(self, x, time, labels):
        return self.sign * self.module(x, self.scale * time, labels)

def of(scale=1.0, sign=1.0, null=None, **changes):
    source = load_source(SOURCE)
    (label,) = source.spec.conditions
    label = label if null is None else type(label)("class", input="class", low=0, high=9, null=null)
    return Changed(source.module, scale, sign), replace(source.spec, conditions=(label,), **changes)

def right(): return of()
def sign(): return of(sign=-1.0)
def time_scale(): return of(scale=0.001)
def null(): return of(null=0)
def prediction(): return of(prediction=OTHER)
def schedule(): return of(schedule=ScheduleSpec(SCHEDULE))
'''  # fmt: skip
GAUSSIAN = '''
import torch
from fewstep.export import ScheduleSpec, Spec

class Gaussian(torch.nn.Module):
    """The flow of data of mean 0.5 and variance 0.04, exactly."""

    def forward(self, x, time):
        a, s = (1 - time)[:, None], time[:, None]
        x0 = 0.5 + 0.04 * a / (0.04 * a**2 + s**2) * (x - 0.5 * a)
        return SIGN * (x - x0) / s

def make():
    return Gaussian(), Spec("gaussian", (8,), (), "flow", ScheduleSpec("flow", timesteps=TIMESTEPS))
'''


def drawn(source: Source, labels: np.ndarray) -> np.ndarray:
    """Return samples of a denoiser along 12 steps of DDIM."""
    evaluate, spec = module_evaluator(source), source.spec
    assert evaluate is not None
    times = trailing(NoiseSchedule(spec.schedule), 12)
    x = times[0].sigma * normal_batch(range(len(labels)), 0, spec.x_shape)
    for s, t in zip(times, times[1:]):
        u = (input_scale(spec.prediction, s, spec.schedule) * x).astype(np.float32)
        stated = np.full(len(x), s.network, np.float32)
        a, b = x0_coefficients(spec.prediction, s, spec.schedule)
        x0 = np.clip(a * x + b * evaluate({X: u, TIME: stated, "class": labels}), -1, 1)
        x = t.alpha * x0 + t.sigma * (x - s.alpha * x0) / s.sigma
    return np.asarray(x0, np.float32)


def refusal(source: str, data: Path, folder: Path) -> str:
    """Return the message of export for a source and samples."""
    with pytest.raises(UserError, match="the spec seems wrong.*train longer") as refused:
        export(ExportOptions(source, folder / "bundle", check=data, verify="quick"))
    assert not (folder / "bundle" / "manifest.json").exists()
    said = refused.value.what.removeprefix("the spec seems wrong, or the network barely trained: ")
    return said.partition("; the errors are ")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", SOURCES)
def test_each_mistake_on_purpose_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "unet":
        pytest.importorskip("diffusers")
    monkeypatch.setattr(sys, "path", [*sys.path, str(ZOO)])
    source, labels = load_source(SOURCES[name]), np.arange(16) % 10
    kind = source.spec.schedule.kind
    constants = {
        "SOURCE": SOURCES[name],
        "OTHER": "epsilon" if source.spec.prediction == "v" else "v",
        "SCHEDULE": "cosine" if kind == "linear" else "linear",
    }
    text = "".join(f"{key} = {value!r}\n" for key, value in constants.items())
    (tmp_path / "wrong.py").write_text(text + WRONG)
    samples, file = drawn(source, labels), tmp_path / "data.npz"
    np.savez(file, x=samples, **{"class": labels})
    export(ExportOptions(f"{tmp_path / 'wrong.py'}:right", tmp_path / "right", check=file, verify="quick"))
    for mistake, said in {
        "sign": "its output has the other sign",
        "time_scale": "the network takes 1000 times the time that it gets: multiply it in forward",
        "null": "null is another value",
        "prediction": f"prediction is {source.spec.prediction!r}, not {constants['OTHER']!r}",
        "schedule": f"its schedule is {kind!r}, not {constants['SCHEDULE']!r}",
    }.items():
        assert said in refusal(f"{tmp_path / 'wrong.py'}:{mistake}", file, tmp_path), mistake
    np.savez(file, x=(samples + 1) / 2, **{"class": labels})
    assert "the data are in [0, 1]" in refusal(f"{tmp_path / 'wrong.py'}:right", file, tmp_path)


def test_a_right_spec_is_exported_and_a_wrong_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=0.5 + 0.2 * np.random.default_rng(0).normal(size=(40, 8)))
    for name, sign, timesteps in (("right", 1, 1), ("sign", -1, 1), ("clock", 1, 1000)):
        (tmp_path / f"{name}.py").write_text(f"SIGN, TIMESTEPS = {sign}, {timesteps}\n{GAUSSIAN}")
    assert refusal(f"{tmp_path / 'sign.py'}:make", data, tmp_path) == "its output has the other sign"
    clock = "the network takes 1/1000 times the time that it gets: give the schedule timesteps=1"
    assert refusal(f"{tmp_path / 'clock.py'}:make", data, tmp_path) == clock
    manifest = export(ExportOptions(f"{tmp_path / 'right.py'}:make", tmp_path / "bundle", check=data))
    assert "the spec seems right in its prediction, sign, time factor, time direction, range of the data" in caplog.text
    assert "16 samples are denoised as a trained network does" in caplog.text
    x = np.load(data)["x"]
    assert manifest.data_limit == pytest.approx(np.abs(x).max(), rel=1e-6)
    assert manifest.data_moments == pytest.approx((x.mean(), x.std()))
    assert "--check" not in manifest.provenance.commands[0]


def test_a_network_that_cannot_be_traced_is_refused_before_the_check(tmp_path: Path) -> None:
    """Its sign is wrong, too. The check may take minutes."""
    np.savez(tmp_path / "data.npz", x=0.5 + 0.2 * np.random.default_rng(0).normal(size=(40, 8)))
    branching = GAUSSIAN.replace("return SIGN", "if x.sum() > 1e9: return x\n        return SIGN")
    (tmp_path / "net.py").write_text(f"SIGN, TIMESTEPS = -1, 1\n{branching}")
    with refuses("branches or loops on values", "torch.where"):
        export(ExportOptions(f"{tmp_path / 'net.py'}:make", tmp_path / "bundle", check=tmp_path / "data.npz"))


def test_a_dry_run_counts_the_evaluations_of_the_check(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 8)))
    (tmp_path / "net.py").write_text(f"SIGN, TIMESTEPS = 1, 1\n{GAUSSIAN}")
    options = ExportOptions(f"{tmp_path / 'net.py'}:make", tmp_path / "bundle", verify="quick")
    alone, checked = (dry_run(each).value for each in (options, replace(options, check=tmp_path / "data.npz")))
    assert isinstance(alone, dict) and isinstance(checked, dict)
    assert checked["evaluations"] == alone["evaluations"] + 1100


def test_a_check_shows_its_duration_and_its_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fewstep.measure.estimate.LEAST_ANNOUNCED", 0.0)
    np.savez(tmp_path / "data.npz", x=0.5 + 0.2 * np.random.default_rng(0).normal(size=(40, 8)))
    (tmp_path / "net.py").write_text(f"SIGN, TIMESTEPS = 1, 1\n{GAUSSIAN}")
    options = ExportOptions(
        f"{tmp_path / 'net.py'}:make", tmp_path / "bundle", verify="quick", check=tmp_path / "data.npz"
    )
    shown = list[tuple[str, int, int]]()
    with caplog.at_level(logging.INFO, ESTIMATES.name):
        export(options, lambda *progress: shown.append(progress))
    of_check = [(done, total) for stage, done, total in shown if stage == "check"]
    assert of_check[0] == (4, 1100) and of_check[-1] == (1100, 1100) and of_check == sorted(of_check)
    assert re.search("this takes up to .*: 1100 evaluations of one sample", caplog.text)


@pytest.mark.slow
def test_a_new_export_of_the_same_graphs_keeps_the_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data, source = tmp_path / "data.npz", tmp_path / "net.py"
    np.savez(data, x=0.5 + 0.2 * np.random.default_rng(0).normal(size=(40, 8)))
    source.write_text(f"SIGN, TIMESTEPS = 1, 1\n{GAUSSIAN}")
    options = ExportOptions(f"{source}:make", tmp_path / "bundle", verify="quick")
    first = export(replace(options, check=data))
    limit, again = first.data_limit, export(options)
    assert limit is not None and again.data_limit == limit and again.data_moments == first.data_moments is not None
    assert f"the data limit of the replaced bundle, {limit:g}, is kept" in caplog.text
    source.write_text(f"SIGN, TIMESTEPS = -1, 1\n{GAUSSIAN}")
    changed = export(options)
    assert changed.data_limit is None and changed.data_moments is None
    assert f"the data limit of the replaced bundle, {limit:g}, is not kept, since the graphs differ" in caplog.text


@pytest.mark.slow
def test_the_limit_of_a_spec_counts_more_than_that_of_the_samples(tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=0.5 + 0.2 * np.random.default_rng(0).normal(size=(40, 8)))
    limited = GAUSSIAN.replace("timesteps=TIMESTEPS)", "timesteps=TIMESTEPS), data_limit=9.0")
    (tmp_path / "limited.py").write_text(f"SIGN, TIMESTEPS = 1, 1\n{limited}")
    manifest = export(ExportOptions(f"{tmp_path / 'limited.py'}:make", tmp_path / "bundle", check=data))
    assert manifest.data_limit == 9
    unlimited = limited.replace("9.0", "float('inf')")
    (tmp_path / "unlimited.py").write_text(f"SIGN, TIMESTEPS = 1, 1\n{unlimited}")
    options = ExportOptions(f"{tmp_path / 'unlimited.py'}:make", tmp_path / "bundle", check=data)
    assert export(options).data_limit is open_bundle(tmp_path / "bundle").manifest.data_limit is None


def test_the_measure_data_may_be_that_of_a_negative_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([[0.5, -3.0], [1.0, 2.0]]))
    spec = Spec("pairs", (2,), (), "flow", ScheduleSpec("flow", timesteps=1))
    assert measure_data(tmp_path / "data.npz", spec) == (3, None)  # two samples are too few for a mean


def test_the_mean_and_the_deviation_are_those_of_all_values(tmp_path: Path) -> None:
    x = np.arange(16.0).reshape(8, 2)
    np.savez(tmp_path / "data.npz", x=x)
    spec = Spec("pairs", (2,), (), "flow", ScheduleSpec("flow", timesteps=1))
    assert measure_data(tmp_path / "data.npz", spec) == (15, (7.5, pytest.approx(x.std())))


def test_what_is_no_file_is_known_first(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    is_folder = r"samples is a folder; write its contents into one \.npz"
    for name, said in (("none.npz", "there is no file .*none.npz; check the path"), ("samples", is_folder)):
        with pytest.raises(UserError, match=said):
            export(ExportOptions("fashion_mnist", tmp_path / "bundle", check=tmp_path / name))
