"""Every example runs as its first lines say, and prints the promised output."""

import ast
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep.runtime
from fewstep.runtime.bundle.manifest import Size, Spectrogram
from tests.bundles import with_manifest_fields
from tests.examples.conftest import EXAMPLES, Example

Run = Callable[..., str]


@pytest.fixture
def run(example: Example) -> Run:
    """A function that runs a script and returns its output."""
    return lambda name, *arguments: example(name, *arguments)[1]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy") / "policy"


@pytest.mark.slow
def test_a_user_supplied_module_becomes_a_policy_and_runs_in_a_loop(policy: Path, run: Run) -> None:
    assert "action sequences of shape [16, 3]" in run("custom_module.py", str(policy))
    printed = run("control_loop.py", str(policy), "20")
    assert printed.startswith("20 actions from ") and int(printed.split()[3]) >= 2


@pytest.mark.slow
def test_the_first_call_does_not_count_as_a_latency(policy: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A first call that takes 1000 seconds on the clock would make the loop choose the cheapest plan from then on."""
    from fewstep.robots.control import clocks

    real, clock, cold = clocks.sample_sequences, time.perf_counter, [1000.0]
    passed = [0.0]

    def slow(*arguments: Any) -> Any:
        passed[0] += cold.pop() if cold else 0.0
        return real(*arguments)

    if not policy.exists():
        run("custom_module.py", str(policy))
    monkeypatch.setattr(clocks, "sample_sequences", slow)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + passed[0])
    printed = run("control_loop.py", str(policy), "5").splitlines()[0]
    assert not cold and float(printed.split()[-4]) < 1e6  # "12.3 ms at most"


@pytest.mark.slow
def test_a_policy_of_lerobots_becomes_a_bundle_and_runs_in_a_loop(tmp_path: Path, run: Run) -> None:
    bundle = str(tmp_path / "policy")
    assert "15 actions from now on, 8 to execute" in run("lerobot_policy.py", bundle)
    assert "5 actions from 1 sequences" in run("control_loop.py", bundle, "5")


def test_an_onnx_file(tmp_path: Path, run: Run) -> None:
    assert "4 samples at once" in run("onnx_in.py", str(tmp_path / "in"))


def test_image_to_image(tiny_bundle: Path, tmp_path: Path, run: Run) -> None:
    printed = run("image_to_image.py", str(tiny_bundle), str(tmp_path / "out.npy"))
    kept = [float(line.split(" of ")[1].split()[0]) for line in printed.splitlines()]
    assert len(kept) == 3 and kept[0] > kept[-1]
    assert np.load(tmp_path / "out.npy").shape == (4, 1, 4, 4)


def test_progress_and_cancel(tiny_bundle: Path, run: Run) -> None:
    printed = run("progress_and_cancel.py", str(tiny_bundle))
    assert "20/20, preview" in printed and "cancelled" in printed


def test_what_a_bundle_is_not_for_is_one_line(tmp_path: Path, run: Run) -> None:
    bundle = str(tmp_path / "unlabelled")
    run("onnx_in.py", bundle)
    for name, given, says in (
        (
            "image_to_image.py",
            [f"{bundle}/bundle", "out.npy"],
            "does not sample images with labels; give one that does",
        ),
        ("progress_and_cancel.py", [str(tmp_path / "none")], "progress_and_cancel: .*none"),
    ):
        with pytest.raises(SystemExit, match=says) as ended:
            run(name, *given)
        assert "\n" not in str(ended.value)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_without_arguments_says_how_to_run_it(file: Path, run: Run) -> None:
    with pytest.raises(SystemExit, match=f"^usage: python docs/examples/{file.name} [A-Z]"):
        run(file.name)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.name)
def test_an_example_is_in_the_index_and_says_how_to_run_it(file: Path) -> None:
    assert f"[{file.name}](examples/{file.name})" in (EXAMPLES.parent / "README.md").read_text()
    assert f"python docs/examples/{file.name}" in (ast.get_docstring(ast.parse(file.read_text())) or "")


def test_a_stream_of_a_file_and_of_a_camera(tmp_path: Path, tiny_bundle: Path, run: Run) -> None:
    film, out = tmp_path / "film.npy", tmp_path / "out.npy"
    np.save(film, np.zeros((6, 1, 4, 4), np.float32))
    printed = run("stream.py", str(tiny_bundle), str(film), str(out))
    assert np.load(out).shape == (6, 1, 4, 4)
    assert "file: Stats(frames=6, out=6" in printed and "frame 0: new" in printed and "camera: Stats(" in printed


@pytest.mark.parametrize("script", ["long_audio.py", "enhance.py"])
def test_a_recording_that_cannot_be_enhanced_gives_one_line(
    tiny_bundle: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    def message_at(rate: int, channels: int = 1, content: bytes | None = None) -> str:
        with wave.open(str(tmp_path / "noisy.wav"), "wb") as file:
            file.setparams((channels, 2, rate, 0, "NONE", ""))
            file.writeframes(bytes(4000))
        if content is not None:
            (tmp_path / "noisy.wav").write_bytes(content)
        with pytest.raises(SystemExit) as ended:
            run(script, str(tiny_bundle), str(tmp_path / "noisy.wav"), str(tmp_path / "out.wav"))
        assert isinstance(ended.value.code, str)  # printed, and the exit status is 1
        return ended.value.code

    assert "does not sample sound" in message_at(16000)
    assert "noisy.wav is not a WAV file" in message_at(
        16000, content=b"no sound at all"
    ) and "is not a WAV" in message_at(16000, content=b"")
    assert "noisy.wav does not have one channel of 16 bits; convert it" in message_at(16000, channels=2)
    real = fewstep.runtime.load(tiny_bundle)
    sound = with_manifest_fields(real, spectrogram=Spectrogram(rate=16000), sizes=(Size("frames", 2, low=4, high=64),))
    monkeypatch.setattr("fewstep.runtime.load", lambda bundle: sound)
    assert "noisy.wav is sampled at 8000 Hz; resample it to 16000 Hz, as in training" in message_at(8000)


@pytest.mark.slow
def test_a_user_supplied_energy_steers_samples(tmp_path: Path, run: Run) -> None:
    plain, steered = run("steer.py", str(tmp_path / "ring")).splitlines()
    assert 20 < int(plain.split()[1].strip("%")) < 45
    assert int(steered.split()[1].strip("%")) > 90 and int(steered.split()[5].strip("%")) > 95
