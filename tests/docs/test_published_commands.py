"""The commands that docs/samplers.md has for published methods: their options, plans and guidance are known."""

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fewstep.cli.main import main
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.names.guidance_text import from_text
from fewstep.plans.names.plan_name import parse_plan_name
from fewstep.plans.names.plan_reference import SchedulerReference, parse_plan_text
from fewstep.runtime import load
from fewstep.runtime.sampling.request import RunSettings
from tests.docs import depth_networks, verbs_page
from tests.docs.docs_blocks import blocks

ROOT = Path(__file__).parents[2]
PAGE, ZOO = ROOT / "docs/samplers.md", ROOT / "zoo"
UNTRAINED = f"""
import sys
sys.path.append({str(ZOO)!r})
import consistency_edm, guided

def make_guided():
    return guided.make.network(), guided.SPEC

def make_consistency():
    return consistency_edm.make.network(), consistency_edm.SPEC
"""
SOURCES = {  # what `bundle` is an export of, by the first words of a method
    "CFG++": (f"{ZOO}/dit_flow.py:make",),
    "distillation": ("untrained.py:make_guided",),
    "a student of one step": (f"{ZOO}/dit_flow.py:make",),
    "a student of two": (f"{ZOO}/dit_flow.py:make", "--lora-slots", "*", "--rank", "8"),
    "a consistency model": ("untrained.py:make_consistency",),
}
ROWS = [
    [cell.strip() for cell in line[1:-1].split("|")]
    for line in PAGE.read_text().partition("## Published methods")[2].partition("\n## ")[0].splitlines()
    if line.startswith("| ") and "method |" not in line
]
COMMANDS = [(row[0], command) for row in ROWS for command in re.findall(r"`(fewstep [^`]+)`", row[1])]


@pytest.mark.parametrize(("method", "command"), COMMANDS)
def test_the_command_of_a_method_is_understood(method: str, command: str) -> None:
    words = shlex.split(command)
    options = [word for word in words if re.match(r"--?[a-z]", word)]
    assert words[1] in ("run", "encode") and {*options} <= verbs_page.flags(words[1])
    if words[1] == "encode":
        return
    values = dict(zip(words, words[1:]))
    if not isinstance(parse_plan_text(values["--plan"]), SchedulerReference):
        assert parse_plan_name(values["--plan"]).solver  # UserError for a solver that is not known
    assert "y=@noisy.npy" not in command or values["-o"].endswith(".npy")  # spectrograms are no pictures
    assert "--guidance" not in values or from_text(values["--guidance"]) == CfgPlusPlus(0.6)


def test_the_table_has_a_command_for_each_kind_of_method() -> None:
    names = " ".join(row[0] for row in ROWS)
    for kind in ("CFG++", "guided", "Lotus-G", "Lotus-D", "Marigold", "one step", "two to four", "StoRM"):
        assert kind in names
    assert len(COMMANDS) == 10


def test_storm_samples_without_corrections() -> None:
    (command,) = (command for method, command in COMMANDS if method.startswith("StoRM") and "score" in command)
    assert "sgmse(corrections=0):30@linspace" in shlex.split(command)


def test_lotus_d_in_python_has_arguments_of_sample() -> None:
    (text,) = (row[1] for row in ROWS if row[0].startswith("Lotus-D"))
    named = re.findall(r"(\w+)=", text)
    assert named == ["given", "strength", "renoise"] and {*named} <= {*RunSettings.__annotations__}


def run_commands(method: str, replaced: Mapping[str, str] = MappingProxyType({})) -> None:
    """Run the commands of a method, with parts of their text replaced."""
    commands = [command for each, command in COMMANDS if each.startswith(method)]
    for old, new in replaced.items():
        assert old in commands[0]
        commands = [command.replace(old, new) for command in commands]
    assert commands and [main(shlex.split(command)[1:]) for command in commands] == [0] * len(commands)


def write_latents(folder: Path) -> None:
    """Write the arrays of Lotus, for a tiny U-Net."""
    latents = np.random.default_rng(1).uniform(-1, 1, (1, 4, 8, 8)).astype(np.float32)
    arrays = {"latents": latents, "text": depth_networks.TEXT, "task": depth_networks.DEPTH}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def test_the_arrays_of_a_picture_are_made_as_printed(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tokenizers")
    from tests.runtime.text_bundle import IMAGE, LENGTH, X_SHAPE, with_companions

    (tmp_path / "bundle").symlink_to(with_companions(tiny_bundle))
    monkeypatch.chdir(tmp_path)
    (code,) = (block.text for block in blocks(PAGE) if "load_autoencoder" in block.text)
    made: dict[str, Any] = {"picture": np.zeros((1, *IMAGE), np.float32)}
    exec(code, made)
    assert np.load("latents.npy").shape == (1, *X_SHAPE) and made["text"].shape == (1, LENGTH, 2)
    np.testing.assert_array_equal(np.load("task.npy"), depth_networks.DEPTH)


@pytest.mark.slow
@pytest.mark.parametrize("method", SOURCES)
def test_a_command_of_a_method_runs(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("untrained.py").write_text(UNTRAINED)
    shutil.copy(ZOO / "consistency_lora.safetensors", "student.safetensors")
    assert main(["export", *SOURCES[method], "-o", "bundle", "-q"]) == 0
    run_commands(method)


@pytest.mark.slow
def test_the_command_of_lotus_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_latents(tmp_path)
    depth_networks.export_denoiser(tmp_path / "bundle", takes_picture=True)
    run_commands("Lotus-G", {"depth.png": "depth.npy"})  # a bundle without an autoencoder
    assert np.isfinite(np.load("depth.npy")).all()


@pytest.mark.slow
def test_the_command_of_marigold_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16), (200, 100, 0)).save("in.png")
    depth_networks.write_marigold(tmp_path / "marigold")
    assert main(["export", "marigold", "-o", "bundle", "-q"]) == 0
    run_commands("Marigold")
    assert Path("depth.png").stat().st_size > 0


@pytest.mark.slow
def test_the_line_of_lotus_d_runs(tmp_path: Path) -> None:
    write_latents(tmp_path)
    depth_networks.export_denoiser(tmp_path / "bundle", takes_picture=False)
    (text,) = (row[1] for row in ROWS if row[0].startswith("Lotus-D"))
    (line,) = re.findall(r"`(sampler[^`]+)`", text)
    arrays = {name: np.load(tmp_path / f"{name}.npy") for name in ("text", "task", "latents")}
    made = eval(line, {"sampler": load(tmp_path / "bundle"), **arrays})
    assert made.shape == (1, 4, 8, 8)


@pytest.mark.slow
def test_the_commands_of_storm_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("noisy.npy", np.random.default_rng(0).standard_normal((1, 2, 64, 32)).astype(np.float32))
    for function, bundle in (("predictor", "predictor"), ("make", "score")):
        assert main(["export", f"{ZOO}/storm.py:{function}", "-o", bundle, "-q"]) == 0
    run_commands("StoRM")
    assert np.isfinite(np.load("clean.npy")).all()
