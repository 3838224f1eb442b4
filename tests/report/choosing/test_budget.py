"""The winner of a budget, the settings of a saved choice, and the front of all deployments."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from fewstep.graph.files.pack import PackOptions, pack
from fewstep.measure.rollouts.end_quality import end_quality
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg
from fewstep.plans.shaping import UNCLIPPED, Clip
from fewstep.report.choosing.budget import Budget, choose_by_budget
from fewstep.report.choosing.choose import choose
from fewstep.report.choosing.deployments import pareto_front
from fewstep.report.choosing.engines import TimedEngine
from fewstep.report.choosing.options import ChooseOptions
from fewstep.report.choosing.saved_choice import Deployment, SavedChoice, load_choice
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.loading import load
from tests.refusals import refuses


def row(milliseconds: float, decibels: float, **figures: float) -> Deployment:
    quality = msgspec.structs.replace(end_quality(np.array([decibels]), "float32, p"), **figures)
    return Deployment("b", "int8", TimedEngine("onnxruntime", 0, 1.0), "p", 1, milliseconds, 1.0, quality)


@pytest.mark.parametrize(
    ("rows", "within", "fix"),
    [
        ([row(2.3456, 30, snr=25.0)], "2ms", "give --within 2.35ms, or try more plans (--plan)"),
        (
            [row(1, 22.7, snr=16.0), row(2.3456, 30, snr=25.0)],
            "2ms",
            "give --within 2.35ms or --at-least 22dB, or try more plans (--plan)",
        ),
        (
            [row(3, 20.6, snr=12.0)],
            "2ms",
            "give --at-least 25dB without --within, which chooses the fastest deployment",
        ),
        ([row(1, 5.0, snr=2.0)], "2ms", "give --at-least 25dB without --within, which chooses the fastest deployment"),
        ([row(1, -34.0, snr=5.0, largest=37.4)], None, "clip each clean prediction, with --clip LIMIT"),
        ([row(1, 5.0, snr=12.0, unrelated=8.0)], None, "try plans of more steps (--plan SOLVER:STEPS)"),
        ([row(1, 5.0, snr=2.0, unrelated=8.0)], None, "try plans of more steps (--plan SOLVER:STEPS)"),
    ],
)
def test_a_fix_names_only_limits_that_a_deployment_meets(
    tiny_bundle: Path, rows: list[Deployment], within: str | None, fix: str
) -> None:
    budget = Budget(within, "25dB", 2.0 if within else None, 25.0)
    bundle = open_bundle(tiny_bundle)
    with pytest.raises(UserError) as caught:
        choose_by_budget(bundle, budget, 1, load(tiny_bundle).compile("ddim:2"), rows)
    assert fix in caught.value.fix and "15dB" not in caught.value.fix


def test_the_text_encoder_and_the_decoder_take_a_part_of_the_time(tiny_bundle: Path) -> None:
    """Of 5 ms they take 3, so that a call of 2.3 ms is too slow, and one of 2 ms is not."""
    budget = Budget("5ms", "25dB", 5.0, 25.0, companions={"b": 3.0})
    bundle, plan = open_bundle(tiny_bundle), load(tiny_bundle).compile("ddim:2")
    chosen = choose_by_budget(bundle, budget, 1, plan, [row(2.0, 30), row(2.3, 31)])
    assert chosen.winner.milliseconds == 2.0
    assert chosen.asked == "within 5ms and at least 25dB, with 3 ms for encoding and decoding"
    with refuses("with 3 ms for encoding and decoding: the fastest of this quality", "--within 5.3ms"):
        choose_by_budget(bundle, budget, 1, plan, [row(2.3, 31)])


def test_a_body_with_faster_companions_wins_though_it_samples_slower(tiny_bundle: Path) -> None:
    """Whole calls take 8 and 4.1 ms."""
    int8 = msgspec.structs.replace(row(2.1, 30), body="int8")
    budget = Budget("5ms", "25dB", 5.0, 25.0, companions={"b": 6.0, "int8": 2.0})
    plan, rows = load(tiny_bundle).compile("ddim:2"), [row(2.0, 31), int8]
    assert choose_by_budget(open_bundle(tiny_bundle), budget, 1, plan, rows).winner == int8


def test_a_time_that_no_deployment_meets_names_the_fastest(tiny_bundle: Path) -> None:
    rows = [row(3, 20.6, snr=12.0), row(4, 22.0, snr=12.0)]
    with refuses(("2ms", "25dB", "3 ms, 20.6 dB")):
        choose_by_budget(
            open_bundle(tiny_bundle), Budget("2ms", "25dB", 2.0, 25.0), 1, load(tiny_bundle).compile("ddim:2"), rows
        )


@pytest.mark.parametrize(
    ("plan", "guidance", "shaping", "expected"),
    [
        ("ddim:4", None, None, {"guidance": 1.0, "shaping": UNCLIPPED}),
        ("ddim:4", Cfg(2.0), Clip(-1.0, 1.0), {"guidance": Cfg(2.0), "shaping": Clip(-1.0, 1.0)}),
        ("scheduler:4", None, Clip(-1.0, 1.0), {"guidance": 1.0, "shaping": None}),
    ],
)
def test_a_saved_choice_takes_nothing_from_the_calibration(
    plan: str, guidance: Cfg | None, shaping: Clip | None, expected: dict[str, object]
) -> None:
    winner = msgspec.structs.replace(row(1, 30.0), plan=plan)
    assert SavedChoice("b", "", "", 1, guidance, shaping, winner, (plan,)).settings == expected


def test_the_front_is_what_no_other_beats_in_both() -> None:
    rows = [row(3, 30), row(1, 20), row(2, 20), row(4, 30), row(4, 29), row(1, 25), row(5, 40)]
    assert [(quality.milliseconds, quality.psnr) for quality in pareto_front(rows)] == [(1, 25), (3, 30), (5, 40)]


def test_a_slower_deployment_is_not_in_front_for_a_hundredth_of_a_db() -> None:
    rows = [row(1, 21.1), row(2, 21.11), row(3, 21.3)]
    assert pareto_front(rows) == [rows[0], rows[2]]


def test_a_bundle_packed_without_float32_names_the_bundle_in_which_to_choose(tiny_bundle: Path, tmp_path: Path) -> None:
    pack(PackOptions(tiny_bundle, packed := tmp_path / "packed", ("int8-cpu-x86",)))
    fix = ("in the bundle that this was packed from", "--plan and --precision instead of --chosen")
    with refuses("packed", fix):
        load_choice(packed)
    with refuses("packed", fix):
        choose(ChooseOptions(packed, within="8ms"))
