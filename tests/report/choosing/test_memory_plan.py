"""Plans of a run for a budget of memory, from the measured peaks of its stages."""

from pathlib import Path

import pytest

pytest.importorskip("tokenizers")
from fewstep.plans.errors import UserError
from fewstep.report.choosing import memory_plan
from fewstep.report.choosing.memory_plan import MemoryPlan, plan_memory
from fewstep.report.choosing.stage_memory import DENOISER_STAGE, Stage, stage_bytes
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.companions import DECODER, TEXT_ENCODER
from tests.runtime.text_bundle import with_companions

MB = 10**6
BASE = 50 * MB


def measured(bundle: Bundle, stage: Stage, threads: int) -> int:
    """Return 100 MB for the text encoder, 500 for the decoder, or 300 in bands, and 200 for each row of a denoiser that
    keeps memory, 160 with one graph in memory at a time, or 100 for one that does not keep it."""
    if stage.name != DENOISER_STAGE:
        return {TEXT_ENCODER: 100, DECODER: 300 if stage.in_bands else 500}[stage.name] * MB
    assert stage.keeps_memory or stage.in_turns
    return (200 - 40 * stage.in_turns - 60 * (not stage.keeps_memory)) * stage.rows * MB


@pytest.fixture
def bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setattr(memory_plan, "stage_bytes", measured)
    monkeypatch.setattr(memory_plan, "held_bytes", lambda: BASE)
    monkeypatch.setattr(memory_plan, "SPREAD", 0)
    monkeypatch.setattr(memory_plan, "LEFT", 0)
    return open_bundle(with_companions(tiny_bundle))


def plan(bundle: Bundle, megabytes: int, samples: int = 4, pictures: int = 10) -> MemoryPlan:
    return plan_memory(
        bundle,
        "float32",
        megabytes * MB,
        samples=samples,
        branches=2,
        prompts=["a cat"],
        pictures=pictures * MB,
        threads=1,
    )


def test_a_budget_that_suffices_changes_nothing(bundle: Bundle) -> None:
    made = plan(bundle, 2000)
    assert (made.batch, made.keeps_memory, made.expected) == (4, True, 1650 * MB)


def test_one_graph_at_a_time_is_in_memory_before_it_is_freed_after_each_call(bundle: Bundle) -> None:
    made = plan(bundle, 1649)
    assert (made.batch, made.in_turns, made.keeps_memory, made.expected) == (4, True, True, 1330 * MB)


@pytest.mark.parametrize(
    ("megabytes", "batch", "expected"), [(900, 4, 850), (849, 3, 650), (450, 2, 450), (375, 1, 370)]
)
def test_fewer_samples_in_a_call_fit_a_smaller_budget(
    bundle: Bundle, megabytes: int, batch: int, expected: int
) -> None:
    made = plan(bundle, megabytes)
    assert (made.batch, made.keeps_memory, made.expected) == (batch, False, expected * MB)


@pytest.mark.parametrize(("megabytes", "in_bands"), [(570, False), (569, True)])
def test_the_decoder_runs_in_bands_only_if_it_must(bundle: Bundle, megabytes: int, in_bands: bool) -> None:
    assert plan(bundle, megabytes).in_bands == in_bands


def test_an_impossible_budget_is_refused_with_the_least_one(bundle: Bundle) -> None:
    says = r"300 MB of memory is too little: the decoder of latents needs 370 MB; give --memory 380MB or more"
    with pytest.raises(UserError, match=says):
        plan(bundle, 300)
    assert plan(bundle, 380).batch == 1


def test_all_pictures_are_in_memory_when_they_are_drawn(bundle: Bundle) -> None:
    assert plan(bundle, 2000, pictures=360).expected == (50 + 5 * 360) * MB
    with pytest.raises(UserError, match=r"the drawing of the pictures needs 5\.05 GB"):
        plan(bundle, 2000, pictures=1000)


def test_the_plan_is_one_line(bundle: Bundle) -> None:
    line = plan(bundle, 400).describe()
    assert line == (
        "memory, one stage after the other: text encoder 150 MB, denoiser 250 MB, decoder of latents 370 MB, "
        "drawing of the pictures 100 MB (1 sample in a call, freed after each); 370 MB expected of 400 MB"
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", [TEXT_ENCODER, DENOISER_STAGE, DECODER])
def test_the_memory_of_a_stage_is_measured_once(tiny_bundle: Path, stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, prompts = open_bundle(with_companions(tiny_bundle)), ("a cat",) if stage == TEXT_ENCODER else ()
    first = stage_bytes(bundle, Stage(stage, "float32", prompts=prompts), 1)
    assert MB < first < 200 * MB  # the engine itself
    monkeypatch.setattr("fewstep.report.choosing.stage_memory.ProcessPool", lambda *_: pytest.fail("measured again"))
    assert stage_bytes(bundle, Stage(stage, "float32", prompts=prompts), 1) == first


def test_the_encoder_is_measured_with_the_texts_of_the_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = list[Stage]()

    def record(bundle: Bundle, stage: Stage, threads: int) -> int:
        stages.append(stage)
        return measured(bundle, stage, threads)

    monkeypatch.setattr(memory_plan, "stage_bytes", record)
    plan(bundle, 2000)
    assert [stage.prompts for stage in stages if stage.name == TEXT_ENCODER] == [("a cat",)]
