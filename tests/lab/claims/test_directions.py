"""A figure may judge a claim only if it improves with steps of the network."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from queue import Queue
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from benchmarks.distance_to_data import PARTS
from lab.claims import claim_lines, directions, scores
from lab.claims.claim import FD, LOG_P, Claim, Network, Search, claims
from lab.claims.claim_lines import Gain, Kept, Line, RefusedClaim
from lab.claims.claims import CLAIMS, Found, measure, store
from lab.claims.directions import Direction, find_direction, measure_direction, needs_direction, prefer_more_seeds
from lab.claims.scores import teacher_distance, to_teacher

WRONG = Direction("tiny", FD.name, 1.0, "ddim:20", "ddim:50", 8, -20.0, -10.0, 4.0)


class Steps:
    """A stand-in for a setting, with given samples for each plan."""

    def __init__(self, by_plan: dict[str, np.ndarray]) -> None:
        self.by_plan, self.seeds, self.source = by_plan, range(2), ""
        self.judge = SimpleNamespace(extract=lambda x: x)

    def sample(self, plan: str, guidance: float | None = None) -> np.ndarray:
        return self.by_plan[plan]


def claim(figure: str = FD.name, network: Network | None = None) -> Claim:
    way = {"B": (5, lambda s: s.sample("ddim:5"))}
    (made,) = claims("A", "nearer", 5, lambda s: s.sample("ddim:5"), ("tiny",), way, network=network)
    return replace(made, figure=figure)


def test_no_kept_line_has_a_figure_that_gets_worse_with_steps() -> None:
    """On its network, and with its guidance. Each line is of a claim, and each figure of data was measured."""
    kept, by_name = claim_lines.load_kept(), {}
    for each in CLAIMS:
        by_name |= {(model, each.system, each.figure, each.control): each for model in each.models}
    assert len(kept.lines) > 100
    for line in kept.lines:
        its = by_name[line.model, line.system, line.figure, line.control]
        if needs_direction(its):
            found = find_direction(kept.directions, line.model, its)
            assert found is not None and not found.is_wrong, str(line)


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
    found = find_direction(claim_lines.load_kept().directions, "speech_ncsn", claim)
    assert found is not None and {each.network for each in others} <= {claim.network}
    assert [plan.partition(":")[0] for plan in (found.few, found.many)] == [solver, solver]
    assert found.is_wrong is is_wrong


def test_figures_that_need_no_direction_are_of_a_teacher_of_runs_or_an_aim() -> None:
    others = {each.figure for each in CLAIMS if not needs_direction(each)}
    assert others == {
        "PSNR to the teacher", "-FD to the teacher", "PSNR of the source", "correlation", "frames/s",
        "frames per call", "minus step at borders", "-distance of class shares", "the item, in another colour", LOG_P,
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


def test_a_direction_is_the_gain_from_few_to_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directions, "replace", lambda s, seeds: s)
    monkeypatch.setitem(directions.BY_FIGURE, FD.name, lambda s, x: -x)
    of = Steps({"ddim:20": np.arange(4.0), "ddim:50": np.arange(4.0) + [1, 1, 3, 3], "own:1": np.zeros(4)})
    found = measure_direction("tiny", of, claim(), 4)
    assert (found.network, found.guidance, found.figure_of_few, found.gain) == ("tiny", 1.0, -1.5, -2.0)
    assert found.error == pytest.approx(1 / 3**0.5) and found.is_wrong
    own = Network("other", "own:1", "ddim:20", lambda s, plan: s.sample(plan))
    found = measure_direction("tiny", of, claim(network=own), 4)
    assert found.key == ("other", FD.name, None) and found.gain == -1.5


def test_a_refused_claim_loses_its_line_and_does_not_end_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = claim(), claim("frames/s")
    made = Line("tiny", "A", "nearer", "B", "frames/s", 5, 2.0, 1.0, Gain(1.0, 0.1), "seed", 10, 9, None)
    module, found = "lab.claims.claims", Queue[Found | None]()
    monkeypatch.setattr(f"{module}.open_setting", lambda *_: None)
    monkeypatch.setattr(f"{module}.time_ways", lambda *_: ())
    monkeypatch.setattr(f"{module}.judge_claim", lambda *_: made)
    monkeypatch.setattr(f"{module}.measure_direction", lambda *_: WRONG)
    monkeypatch.setattr(f"{module}.select_claims", lambda *_: [first, second])
    measure(("tiny", "plans"), tmp_path, Namespace(seeds=2, first_seed=0, only=None), found)
    direction, refused, taken = (found.get() for _ in range(3))
    assert found.empty()  # a refused claim is not measured
    assert direction == WRONG and isinstance(refused, RefusedClaim) and taken == made
    assert str(refused) == (
        "tiny: A | refused: -FD of tiny with guidance 1 is -20.00 along ddim:20 and -30.00 along ddim:50, so it"
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
    assert drawn == [scores.TEACHER_SEEDS] * 2
