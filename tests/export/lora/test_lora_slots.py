"""LoRA files at run time: the slots of an export, and merged files."""

import resource
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.cli.main import main
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.sampling.loading import load
from tests.export.lora.lora_files import kohya, peft, updates, write
from tests.export.networks import lora_slots_denoiser
from tests.refusals import refuses

pytestmark = pytest.mark.slow
LAYERS = ("conv_in", "down", "mid", "time", "q", "v", "up", "out")
PLAN = "ddim:4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A denoiser, a bundle of it with slots, and two LoRA files for all kinds of its layers."""
    folder = tmp_path_factory.mktemp("slots")
    export(options(folder, "slots", lora_slots=("*",), rank=8, verify="quick"))
    module, _ = lora_slots_denoiser.make()
    for number, (layers, key) in enumerate(((LAYERS, peft), (LAYERS[2:], kohya))):
        made = updates(module, layers, number)
        small = {name: {part: 0.3 * tensor for part, tensor in parts.items()} for name, parts in made.items()}
        write(folder / f"{number}.safetensors", small, key)
    return folder


def options(folder: Path, name: str, **asked: Any) -> ExportOptions:
    return ExportOptions(f"{lora_slots_denoiser.__file__}:make", folder / name, **asked)


def test_slots_are_the_merged_network_to_rounding(folder: Path) -> None:
    first, second = folder / "0.safetensors", folder / "1.safetensors"
    sampler = load(folder / "slots")
    base = sampler.sample(PLAN, [0, 1])
    for number, adapters in enumerate(({first: 1.0}, {first: 0.5, second: -0.7})):
        texts = tuple(f"{path}:{strength}" for path, strength in adapters.items())
        export(options(folder, f"merged_{number}", lora=texts, verify="quick"))
        merged = load(folder / f"merged_{number}").sample(PLAN, [0, 1])
        with_files = sampler.with_options(adapters=adapters)
        own = with_files.sample(PLAN, [0, 1])
        assert np.abs(own - merged).max() < 1e-5 < 1e-2 < np.abs(own - base).max()
        assert np.array_equal(with_files.sample_each([PLAN, PLAN], [0, 1]), own)
        each = with_files.sample_each([PLAN, "ddim:2"], [0, 1])
        assert np.abs(each[0] - own[0]).max() < 1e-5
        assert np.array_equal(
            sampler.with_options(adapters={first: 2.0}).with_options(adapters=adapters).sample(PLAN, [0, 1]), own
        )
        assert np.array_equal(with_files.with_options(adapters=None).sample(PLAN, [0, 1]), own)
        assert np.array_equal(with_files.with_options(adapters={}).sample(PLAN, [0, 1]), base)
    assert np.array_equal(sampler.sample(PLAN, [0, 1]), base)


def test_an_export_without_slots_says_nothing_of_them(folder: Path) -> None:
    manifest = msgspec.json.decode((folder / "slots" / "manifest.json").read_bytes())
    assert set(manifest["lora_slots"]["layers"]) == set(LAYERS) and manifest["lora_slots"]["rank"] == 8
    assert manifest["lora_slots"]["graphs"]["prologue"] == ["time"]
    assert "--lora-slots '*' --rank 8" in manifest["provenance"]["commands"][0]
    export(options(folder, "plain", verify="quick"))
    assert b'"lora_slots"' not in (folder / "plain" / "manifest.json").read_bytes()
    with refuses("plain", ("--lora-slots", "merge it")):
        load(folder / "plain").with_options(adapters={folder / "0.safetensors": 1.0})


def test_threads_switch_without_mixing_and_memory_does_not_grow(folder: Path) -> None:
    paths = [folder / f"{number}.safetensors" for number in (0, 1)]
    choices = [None, *({path: strength} for path in paths for strength in (0.3, 0.6, 1.0))]
    sampler = load(folder / "slots")
    samplers = [sampler.with_options(adapters=choice) for choice in choices]
    expected = [each.sample(PLAN, [3]) for each in samplers]

    def same(turn: int) -> bool:
        which = turn * 5 % len(choices)
        return np.array_equal(samplers[which].sample(PLAN, [3]), expected[which])

    with ThreadPoolExecutor(2) as pool:
        assert all(pool.map(same, range(50)))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        assert all(pool.map(same, range(100)))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 8 * 1024  # kB


def test_a_file_is_read_when_it_is_chosen(folder: Path, tmp_path: Path) -> None:
    sampler, path = load(folder / "slots"), tmp_path / "a.safetensors"
    path.write_bytes((folder / "0.safetensors").read_bytes())
    before = sampler.with_options(adapters={path: 1.0})
    first = before.sample(PLAN)
    path.write_bytes((folder / "1.safetensors").read_bytes())
    assert np.array_equal(before.sample(PLAN), first)
    assert not np.array_equal(sampler.with_options(adapters={path: 1.0}).sample(PLAN), first)


@pytest.mark.slow
def test_int8_with_slots_is_as_near_as_merged_and_calibrated_again(folder: Path) -> None:
    path, seeds = folder / "0.safetensors", range(100, 132)
    export(options(folder, "merged", lora=(str(path),), verify="quick"))
    for name in ("slots", "merged"):
        calibrate(CalibrateOptions(folder / name, "ddim:8", ("cpu-x86",), trajectories=16))
    exact = load(folder / "merged").sample("ddim:8", seeds)
    merged = psnr(load(folder / "merged", "int8").sample("ddim:8", seeds), exact).mean()
    slots = psnr(
        load(folder / "slots", "int8").with_options(adapters={path: 1.0}).sample("ddim:8", seeds), exact
    ).mean()
    assert merged > 50 and slots > merged - 1


@pytest.mark.parametrize("unroll", [False, True])
def test_a_baked_file_takes_an_onnx_adapter(folder: Path, tmp_path: Path, unroll: bool) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    line = ["bake", str(folder / "slots"), "--plan", PLAN, "-o", str(tmp_path / "run.onnx")]
    adapter = folder / "0.safetensors"
    assert main([*line, "--adapter", f"{adapter}:0.5", *["--unroll"] * unroll]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "run.onnx")
    sampler, loaded, run = load(folder / "slots"), onnxruntime.LoraAdapter(), onnxruntime.RunOptions()
    loaded.Load(str(tmp_path / "run.onnx_adapter"))
    run.add_active_adapter(loaded)
    noise = {"noise": sampler.draws([4])(0)}
    for options, adapters in ((None, None), (run, {adapter: 0.5})):
        (baked,) = session.run(None, noise, options)
        assert np.abs(baked - sampler.with_options(adapters=adapters).sample(PLAN, [4])).max() < 1e-5


def test_the_command_line_takes_adapters(folder: Path, tmp_path: Path) -> None:
    adapter, output = folder / "0.safetensors", tmp_path / "x.npy"
    line = ["run", str(folder / "slots"), "--plan", PLAN, "-n", "2", "-o", str(output)]
    assert main([*line, "--adapter", f"{adapter}:0.5"]) == 0
    expected = load(folder / "slots").with_options(adapters={adapter: 0.5}).sample(PLAN, [0, 1])
    assert np.array_equal(np.load(output), expected)


def ones(*shape: int) -> Tensor:
    return torch.ones(shape)


PAIR = {"q.lora_A.weight": ones(1, 32), "q.lora_B.weight": ones(32, 1)}


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        (
            {"q.lora_A.weight": ones(1, 32) * torch.nan, "q.lora_B.weight": ones(32, 1)},
            "contains NaN or infinity in 'q",
        ),
        ({"r.lora_A.weight": ones(1, 32), "r.lora_B.weight": ones(32, 1)}, "denoiser lacks 1 of the layers .*: 'r'"),
        ({"q.lora_A.weight": ones(1, 16), "q.lora_B.weight": ones(32, 1)}, r"'q' has a weight of \[32, 32\], but the"),
        (
            {"q.lora_A.weight": ones(2, 32), "q.lora_B.weight": ones(32, 1)},
            r"but the file has down \[2, 32\], up \[32, 1",
        ),
        ({"q.lora_A.weight": ones(9, 32), "q.lora_B.weight": ones(32, 9)}, "rank 9 at 'q', but slots take 8; export"),
        (PAIR | {"q.lora_magnitude_vector": ones(32)}, "is a DoRA file, .*; merge it into a bundle: fewstep export"),
        (PAIR | {"q.diff_b": ones(32)}, "changes the bias of 'q', which has no slot; merge it"),
        ({"grouped.diff": ones(32, 8, 3, 3)}, "changes 'grouped', which has no slot for a LoRA; export with"),
        ({"q.diff": ones(32, 32)}, "rank 32 at 'q', but slots take 8; export with --rank 32"),
        (PAIR | {"q.alpha": torch.tensor(3e38)}, "the update of 'q' in .* overflows; check its alpha"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(
    folder: Path, tmp_path: Path, tensors: Mapping[str, Tensor], says: str
) -> None:
    save_file(dict(tensors), tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=says) as failure:
        load(folder / "slots").with_options(adapters={tmp_path / "a.safetensors": 2.0})
    assert "\n" not in str(failure.value) and "a.safetensors" in str(failure.value)


def test_a_cut_file_and_wrong_arguments_are_one_line(folder: Path, tmp_path: Path) -> None:
    whole, cut = folder / "0.safetensors", tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-9])
    sampler = load(folder / "slots")
    for adapters, says in (
        ({cut: 1.0}, "cut.safetensors cannot be read"),
        ({tmp_path / "no.safetensors": 1.0}, "there is no file .*no.safetensors"),
        ({whole: float("nan")}, "strength of 0.safetensors is not between"),
        ({whole: 10**400}, "strength of 0.safetensors is not between -1e.06 and 1e.06; give a number"),
        ({"x" * 300: 1.0}, "'x{40}' cannot be read .File name too long.; check the path"),
        ({whole: "1"}, "has the strength '1'; give a number"),
        ([whole], "is not a mapping; give adapters="),
    ):
        with pytest.raises(UserError, match=says):
            sampler.with_options(adapters=adapters)  # type: ignore[arg-type]


def test_another_engine_runs_the_bundle_and_refuses_files(folder: Path) -> None:
    pytest.importorskip("openvino")
    sampler = load(folder / "slots", backend=OpenVino(batch=1))
    assert np.abs(sampler.with_options(adapters={}).sample(PLAN) - load(folder / "slots").sample(PLAN)).max() < 1e-4
    with refuses("LoRA", "onnxruntime on the CPU"):
        sampler.with_options(adapters={folder / "0.safetensors": 1.0})
