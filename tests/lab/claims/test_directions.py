"""A figure may judge a claim only if it improves with steps of the network."""

import re
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks.distance_to_data import PARTS
from lab.claims import claim_lines, directions, scores, shared_samples
from lab.claims.claim import FD, LOG_P, Claim, Search, StepPair, claims, plan, step_pair
from lab.claims.claim_lines import Gain, Kept, Line, RefusedClaim
from lab.claims.claims import CLAIMS, Found, measure, store
from lab.claims.directions import (
    Direction,
    key_of,
    measure_direction,
    needs_direction,
    pairs_of,
    prefer_more_seeds,
)
from lab.claims.measure_claim import Timing, judge_claim
from lab.claims.scores import teacher_distance, to_teacher

WRONG = Direction("tiny", FD.name, 1.0, "unipc_2:5", "unipc_2:15", 8, -20.0, -10.0, 4.0)


class Steps:
    """A stand-in for a setting of two seeds from 5 on, with given samples for each plan."""

    def __init__(
        self, by_plan: dict[str, np.ndarray], seeds: range = range(5, 7), ran: list[str] | None = None
    ) -> None:
        self.by_plan, self.seeds, self.source = by_plan, seeds, ""
        self.judge = SimpleNamespace(extract=lambda x: x)
        self.ran: list[str] = [] if ran is None else ran

    def sample(self, plan: str, guidance: float | None = None) -> np.ndarray:
        self.ran.append(plan)
        return self.by_plan[plan][: len(self.seeds)]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stand-ins take other seeds, and a figure be minus the samples."""
    monkeypatch.setattr(shared_samples, "MADE", {})
    monkeypatch.setattr(shared_samples, "replace", lambda s, seeds: Steps(s.by_plan, seeds, s.ran))
    monkeypatch.setitem(directions.BY_FIGURE, FD.name, lambda s, x: -x)


FIVE, OTHER = step_pair("ddim:5", "ddim:15", 1.0), step_pair("unipc_2:5", "unipc_2:15", 1.0)


def claim(figure: str = FD.name, **options: Any) -> Claim:
    how = {"own_steps": FIVE, "steps": {"B": OTHER}, **options}
    (made,) = claims("A", "nearer", 5, plan("ddim:5", 1.0), ("tiny",), {"B": (5, plan("unipc_2:5", 1.0))}, **how)
    return replace(made, figure=figure)


def test_no_kept_line_has_a_figure_that_gets_worse_with_steps() -> None:
    """Of its network, and along the samplers that it compares. Each of these directions was measured."""
    kept, by_name = claim_lines.load_kept(), {}
    for each in CLAIMS:
        by_name |= {(model, each.system, each.figure, each.control): each for model in each.models}
    known = {direction.key: direction for direction in kept.directions}
    assert len(kept.lines) > 100
    for line in kept.lines:
        its = by_name[line.model, line.system, line.figure, line.control]
        for pair in pairs_of(line.model, its):
            found = known.get(key_of(line.model, its.figure, pair))
            assert found is not None and not found.is_wrong, (str(line), pair.few)


def test_each_kept_direction_is_of_a_claim_or_one_that_systems_md_states() -> None:
    """The latter are FD of generators that no claim has as its figure, and controls that were left out."""
    named = {
        key_of(model, each.figure, pair) for each in CLAIMS for model in each.models for pair in pairs_of(model, each)
    }
    others = {
        (direction.network, direction.few)
        for direction in claim_lines.load_kept().directions
        if direction.key not in named
    }
    assert others == {
        ("convnext_v_cosine", "ddim:20"), ("dit_flow", "ddim:20"), ("unet_epsilon_linear", "ddim:20"),
        ("speech_ncsn", "dpmpp_2m_sde:6"), ("resfusion", "dpmpp_2m_sde:4"), ("fashion_mnist", "fitted:5"),
    }  # fmt: skip


def test_every_claim_by_a_figure_of_data_names_the_samplers_that_it_compares() -> None:
    """Ours and that of the control, or that one has no number of steps."""
    without = set()
    for each in CLAIMS:
        if needs_direction(each):
            assert each.compared is not None, (each.system, each.control)
            assert each.compared[0] is not None
            without |= {each.control for pair in each.compared if pair is None}
    assert without == {"the recording", "StoRM's prediction", "the prediction alone"}


def test_many_steps_are_three_times_as_many_or_the_published_number() -> None:
    """The number is 30 of SGMSE+ and StoRM, 15 of ResShift, and 10 of RDDM. Resfusion's table ends after 5 steps."""
    published = {"sgmse:30@linspace", "sgmse(corrections=0):30@linspace", "resshift:15", "rddm:10"}
    for pair in {pair for each in CLAIMS for pair in each.compared or () if pair is not None}:
        few, many = (int(re.search(r"(?:[:,] ?)(\d+)", name)[1]) for name in (pair.few, pair.many))  # type: ignore[index]
        if pair.network == "resfusion":
            assert few < many == 5
        else:
            assert few < many and (round(many / few) >= 3 or pair.many in published), pair


def test_a_claim_by_a_figure_of_data_that_names_no_samplers_is_an_error() -> None:
    with pytest.raises(ValueError, match="A, B: a figure of data, and no samplers that are compared"):
        pairs_of("tiny", claim(steps=None))


def test_a_claim_is_judged_along_the_network_s_own_sampler_ours_and_the_control_s() -> None:
    """Each of them once, and what has no number of steps is left out."""
    own = step_pair("ddim:20", "ddim:50", 1.0)
    assert pairs_of("tiny", claim()) == [own, FIVE, OTHER]
    assert pairs_of("tiny", claim(network=FIVE)) == [FIVE, OTHER]
    assert pairs_of("tiny", claim(steps={"B": None})) == [own, FIVE]
    assert pairs_of("speech_ncsn", claim())[0] == step_pair("sgmse:10@linspace", "sgmse:30@linspace")
    assert pairs_of("tiny", claim("frames/s")) == []


@pytest.mark.parametrize(
    ("system", "solver", "is_wrong"),
    [
        ("StoRM", "ddim", True),
        ("StoRM as published, 5 steps", "sgmse(corrections=0)", False),
        ("MRS", "dpmpp_2m(midpoint=False)", True),
        ("MRS of the SDE", "dpmpp_2m_sde(midpoint=False)", False),
    ],
)
def test_few_evaluations_for_voices_are_judged_along_the_sampler_of_each_claim(
    system: str, solver: str, is_wrong: bool
) -> None:
    """Few steps of the published samplers fail, so their directions say nothing about SI-SDR along others."""
    claim, *others = (each for each in CLAIMS if each.system == system and "speech_ncsn" in each.models)
    pair = pairs_of("speech_ncsn", claim)[0]
    (found,) = (
        direction
        for direction in claim_lines.load_kept().directions
        if direction.key == key_of("speech_ncsn", claim.figure, pair)
    )
    assert {each.compared[0] for each in others if each.compared} <= {claim.network}
    assert [plan.partition(":")[0] for plan in (found.few, found.many)] == [solver, solver]
    assert found.is_wrong is is_wrong


def test_figures_that_need_no_direction_are_of_a_teacher_of_runs_or_an_aim() -> None:
    others = {each.figure for each in CLAIMS if not needs_direction(each)}
    assert others == {
        "PSNR to the teacher", "-FD to the teacher", "-FD to the teacher in 80 steps",
        "-FD to the teacher's pairs", "PSNR of the source",
        "correlation", "frames/s", "frames per call or late frame", "-distance of class shares",
        "the item, in another colour", LOG_P,
    }  # fmt: skip
    assert {each.system for each in CLAIMS if each.search is not None} == {
        "FK steering", "SVDD", "RBF", "noise search", "REINFORCE on the start",
    }  # fmt: skip


@pytest.mark.parametrize(("plain_steps", "needs"), [((40,), True), ((10,), False), ((10, 20, 40), False)])
def test_a_search_is_exempt_next_to_controls_of_as_many_steps(plain_steps: tuple[int, ...], needs: bool) -> None:
    assert needs_direction(replace(claim(LOG_P), search=Search(10, plain_steps))) is needs


@pytest.mark.parametrize(("gain", "error", "is_wrong"), [(1.0, 0.1, False), (-1.0, 0.6, False), (-1.0, 0.4, True)])
def test_a_figure_is_wrong_if_many_steps_are_surely_worse(gain: float, error: float, is_wrong: bool) -> None:
    assert Direction("tiny", "-FD", None, "ddim:20", "ddim:50", 8, -9.0, gain, error).is_wrong is is_wrong


def test_the_direction_of_more_seeds_is_kept() -> None:
    few, many = (Direction("tiny", "-FD", None, "ddim:20", "ddim:50", seeds, -9.0, -1.0, 0.5) for seeds in (128, 512))
    other = msgspec.structs.replace(many, network="another")
    assert prefer_more_seeds(few, [many, other]) is many
    assert prefer_more_seeds(many, [few]) is many
    assert prefer_more_seeds(few, [other]) is few
    assert prefer_more_seeds(few, [msgspec.structs.replace(many, many="ddim:100")]) is few


def test_a_direction_is_the_gain_from_few_to_many_steps(fake: None) -> None:
    made = {"ddim:5": np.arange(4.0), "ddim:15": np.arange(4.0) + [1, 1, 3, 3], "own:1": np.zeros(4)}
    found = measure_direction("tiny", Steps(made), claim(), FIVE, 4)  # type: ignore[arg-type]
    assert found.key == ("tiny", FD.name, 1.0, "ddim:5", "ddim:15")
    assert (found.seeds, found.figure_of_few, found.gain) == (4, -1.5, -2.0)
    assert found.error == pytest.approx(1 / 3**0.5) and found.is_wrong
    own = StepPair("own:1", "ddim:5", plan("own:1"), plan("ddim:5"), network="other", how="by hand")
    found = measure_direction("tiny", Steps(made), claim(), own, 4)  # type: ignore[arg-type]
    assert found.key == ("other by hand", FD.name, None, "own:1", "ddim:5") and found.gain == -1.5


@pytest.mark.parametrize("seeds", [3, 6])
def test_samples_of_a_direction_are_those_of_its_claims(seeds: int, fake: None) -> None:
    """Of as many seeds as the claim has, from the first one on."""
    setting: Any = Steps({"ddim:5": np.arange(8.0), "ddim:15": np.zeros(8), "unipc_2:5": np.zeros(8)})
    of = replace(claim(), seeds=seeds)
    found = measure_direction("tiny", setting, of, FIVE, 4)
    assert found.figure_of_few == -1.5  # of 4 seeds
    line = judge_claim("tiny", setting, replace(of, score=lambda s, x: x), Timing(1.0, 1.0, 5, 1.0, True), [])
    assert line.ours == np.arange(seeds).mean() and setting.ran.count("ddim:5") == 1


def right(pair: StepPair) -> Direction:
    return Direction("tiny", FD.name, pair.guidance, pair.few, pair.many, 8, -20.0, 1.0, 0.1)


def test_a_refused_claim_loses_its_line_and_does_not_end_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = claim(), claim("frames/s")
    made = Line("tiny", "A", "nearer", "B", "frames/s", 5, 2.0, 1.0, Gain(1.0, 0.1), "seed", 10, 9, None)
    module, found = "lab.claims.claims", Queue[Found | None]()
    monkeypatch.setattr(f"{module}.open_setting", lambda *_: None)
    monkeypatch.setattr(f"{module}.time_ways", lambda *_: ())
    monkeypatch.setattr(f"{module}.judge_claim", lambda *_: made)
    monkeypatch.setattr(f"{module}.measure_direction", lambda *of: WRONG if of[-1] == OTHER else right(of[-1]))
    monkeypatch.setattr(f"{module}.select_claims", lambda *_: [first, second])
    measure(("tiny", "plans"), tmp_path, Namespace(seeds=2, first_seed=0, only=None, data=None), found)
    *upright, direction, refused, taken = (found.get() for _ in range(5))
    assert found.empty()  # a refused claim is not measured
    assert upright == [right(step_pair("ddim:20", "ddim:50", 1.0)), right(FIVE)]
    assert direction == WRONG and isinstance(refused, RefusedClaim) and taken == made
    assert str(refused) == (  # by the first of its samplers that is wrong
        "tiny: A | refused: -FD of tiny with guidance 1 is -20.00 along unipc_2:5 and -30.00 along unipc_2:15, so it"
        " rewards the errors of solvers"
    )
    monkeypatch.setattr(claim_lines, "KEPT", tmp_path / "claims.json")
    monkeypatch.setattr(claim_lines, "machine", lambda: "here")
    store(Line("tiny", "A", "nearer", "B", FD.name, 5, 2.0, 1.0, Gain(1.0, 0.1), "seed", 10, 9, None))
    for each in (direction, direction, refused, taken):  # a second measurement takes the place of the first
        store(each)
    assert claim_lines.load_kept() == Kept("here", (made,), (WRONG,))


def test_the_teacher_of_a_score_has_its_guidance(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, drawn = list[tuple[str, float | None]](), list[range]()

    class Taught(Steps):
        def sample(self, plan: str, guidance: float | None = None) -> np.ndarray:
            seen.append((plan, guidance))
            return np.random.default_rng(3).standard_normal((64, 2)) * (1 if guidance is None else guidance)

    monkeypatch.setattr(scores, "replace", lambda s, seeds: drawn.append(seeds) or s)
    x = np.random.default_rng(4).standard_normal((64, 2))
    plain, guided = (teacher_distance(weight)(Taught({}), x) for weight in (None, 7.5))
    assert plain.shape == (PARTS,) and plain.mean() > -0.1 and guided.mean() < -50
    assert to_teacher(7.5)(Taught({}), 7.5 * np.random.default_rng(3).standard_normal((64, 2))).min() > 90
    assert seen == [(scores.OF_TEACHER, None), (scores.OF_TEACHER, 7.5), (scores.TEACHER, 7.5)]
    teacher_distance(7.5, scores.TEACHER)(Taught({}), x)
    assert seen[3:] == [(scores.TEACHER, 7.5)]
    assert drawn == [*[scores.TEACHER_SEEDS] * 2, scores.TEACHER_SEEDS[:256]]
