"""`fewstep choose --memory`: the bodies whose run fits a budget."""

from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.cli.run.choice import apply_choice
from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.request import open_request
from fewstep.plans.errors import UserError
from fewstep.report.choosing import memory_plan
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.options import ChooseOptions
from tests.refusals import refuses

BYTES = {"float32": 4 * 10**9, "int8-cpu-x86": 10**7}  # of memory that the denoiser adds


def options(bundle: Path, memory: str) -> ChooseOptions:
    return ChooseOptions(
        bundle, plan=("ddim:4",), guidance=2.0, seeds=3, teacher="ddim:32", at_least="0dB", memory=memory
    )


def test_bodies_that_need_more_memory_are_left_out_and_the_run_keeps_to_the_budget(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "stage_bytes", lambda bundle, stage, threads: BYTES[stage.body])
    made = choose(options(tiny_bundle, "2GB"))
    assert {row.body for row in made.deployments} == {"int8-cpu-x86"}
    assert made.left_out[0].startswith("float32 is left out: 2.00 GB of memory is too little: the denoiser needs ")
    assert made.notes[0].startswith("int8-cpu-x86: memory, one stage after the other: denoiser ")
    assert made.chosen is not None and made.chosen.asked.startswith("in 2GB of memory and at least 0dB")
    completed, _ = apply_choice(RunOptions(tiny_bundle, chosen=True))
    assert (completed.precision, completed.memory, completed.backend) == ("int8", "2GB", "onnxruntime")
    with pytest.raises(UserError, match=r"no body fits. The smallest is int8-cpu-x86: .* give --memory \d+MB or more"):
        choose(options(tiny_bundle, "1MB"))
    monkeypatch.setattr(memory_plan, "stage_bytes", lambda *_: 10**10)  # by now
    with refuses(r"allows 2GB, and 2.00 GB of memory is too little", "give fewer --samples, or choose again"):
        open_request(RunOptions(tiny_bundle, chosen=True))


def test_a_body_fits_with_all_samples_in_a_call(
    tiny_bundle: Path, calls: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four samples are timed in a call, so a run that takes fewer at once is slower than the table says."""
    added = {"float32": 5 * 10**8, "int8-cpu-x86": 4 * 10**8}  # bytes for each of the two rows of a sample
    monkeypatch.setattr(memory_plan, "stage_bytes", lambda bundle, stage, threads: stage.rows * added[stage.body])
    monkeypatch.setattr("fewstep.report.choosing.choose.held_bytes", lambda: 10**8)
    said = "The smallest is int8-cpu-x86: 2.00 GB of memory is enough for 2 of 4 samples in a call; give --batch 2"
    with pytest.raises(UserError, match=said):
        choose(replace(options(tiny_bundle, "2GB"), batch=4))
