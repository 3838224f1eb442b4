"""The policy benchmark without its simulator: its counts, its experts' routes, its network and its training."""

import dataclasses
import gzip
import inspect
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pytest
import torch

from benchmarks.policy import (
    blocks,
    confidence_intervals,
    experts,
    rollouts,
    success_rates,
    table,
    verdict_store,
    verdicts,
)
from benchmarks.policy.experts import METAWORLD, ROUTES, past_the_wall, route_of
from benchmarks.policy.verdicts import Contender, Episode, Verdict
from benchmarks.policy.worlds import World
from fewstep.runtime import Sampler
from fewstep.runtime.bundle.manifest import Condition, Policy
from tests.bundles import with_manifest_fields
from tests.robots.control.tiny_policy import Network, tiny_policy

FOLDER = Path(__file__).parents[2] / "benchmarks/policy"


class Line:
    """A stand-in for the simulator: the action moves the hand along x, from 0 to the goal at 1. Seeds that are
    multiples of 3 are never solved.
    """

    made = 0

    def __init__(self, task: str) -> None:
        Line.made += 1
        self.task = task

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.seed, self.x = seed, 0.0
        return self.seen()

    def seen(self) -> dict[str, np.ndarray]:
        return {"observation": np.r_[self.x, np.zeros(38)]}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], bool]:
        self.x += 0.05 * float(action[0])
        return self.seen(), self.x > 0.99 and self.seed % 3 != 0

    def draw(self) -> dict[str, np.ndarray]:
        return {}

    def knock(self, shift: np.ndarray) -> None:
        self.x -= 0.5


LINES = dataclasses.replace(METAWORLD, longest=60, simulate=Line)


def forward(bundle: Path, network: Network = np.ones_like) -> Sampler:
    """A policy that always moves on, or one of another network."""
    sampler = tiny_policy(bundle, network)
    conditions = (Condition("observation", "o", (1, 39), "float32"), Condition("task", "t", (5,), "float32"))
    return with_manifest_fields(sampler, conditions=conditions, x_shape=(32, 4), policy=Policy(1, 0, 8))


def run_of(
    contender: Contender, bundle: Path, episodes: Sequence[Episode], world: World = LINES
) -> dict[Episode, Verdict]:
    return {(each.task, each.seed): each for each in rollouts.run(world, contender, forward(bundle), episodes)}


def test_episodes_in_lockstep_have_the_verdicts_that_each_has_alone(tiny_bundle: Path) -> None:
    contender, episodes = Contender("all", "w", "ddim:1", delay=2), rollouts.episodes_of(20, ["push", "assembly"])
    Line.made = 0
    together = run_of(contender, tiny_bundle, episodes)
    assert Line.made <= rollouts.LOCKSTEP + 8 and len(together) == 40  # simulators are used again
    assert all((each.solved is None) == (each.seed % 3 == 0) for each in together.values())
    assert {each.solved for each in together.values() if each.solved is not None} == {19}
    for episode in episodes[:6]:
        assert run_of(contender, tiny_bundle, [episode]) == {episode: together[episode]}


def test_the_digest_of_a_contender_has_all_but_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    contender = Contender("some", "w", "ddim:1")
    other, renamed = (msgspec.structs.replace(contender, **change) for change in ({"delay": 1}, {"name": "same"}))
    split = msgspec.structs.replace(contender, continuity=["hard", "or", "none"][0])  # equal, and another object
    assert split == contender and split.digest == renamed.digest == contender.digest != other.digest
    digests = contender.digest, other.digest
    monkeypatch.setattr(verdicts, "LOOP", 99)  # the loop's delays are other ones from now on
    assert contender.digest == digests[0] and other.digest != digests[1]


def test_kept_verdicts_add_up_over_runs_and_bodies(tmp_path: Path) -> None:
    file, contender = tmp_path / "verdicts.jsonl", Contender("one", "w", "ddim:1", precision="int8")
    assert verdict_store.read(file) == {}
    first = {
        ("push", seed): Verdict("push", seed, None if seed == 1 else 30, None, 1.234, -0.05, "first")
        for seed in (0, 1, 4)
    }
    first["pick-place-wall", 0] = Verdict("pick-place-wall", 0, 80, "left", body="first")
    other = Contender("experts")
    verdict_store.keep([(contender, first), (other, {("push", 0): Verdict("push", 0, 60)})], file)
    again = verdict_store.read(file)[contender.digest]
    assert again.keys() == first.keys()
    assert again["push", 4] == Verdict("push", 4, 30, None, 1.23, -0.05, "first")
    assert again["pick-place-wall", 0].route == "left" and again["push", 1].solved is None
    later = tmp_path / "later.jsonl"
    verdict_store.keep([(contender, {("push", 2): Verdict("push", 2, 31, body="second")})], later)
    known = blocks.join_verdicts(verdict_store.read(file), verdict_store.read(later))
    assert len(known[contender.digest]) == 5 and known[other.digest] == verdict_store.read(file)[other.digest]
    verdict_store.keep([(msgspec.structs.replace(contender, name="new"), known[contender.digest])], file)
    once = file.read_bytes()
    verdict_store.keep([(msgspec.structs.replace(contender, name="new"), known[contender.digest])], file)
    assert file.read_bytes() == once and len(once.splitlines()) == 4  # two tasks, push of two bodies, and the experts
    assert len(verdict_store.read(file)[contender.digest]) == 5 and len(verdict_store.read(file)[other.digest]) == 1


def test_a_compressed_file_has_the_same_verdicts(tmp_path: Path) -> None:
    plain, compressed = tmp_path / "verdicts.jsonl", tmp_path / "verdicts.jsonl.gz"
    made = [(Contender("experts"), {("push", seed): Verdict("push", seed, 60) for seed in range(9)})]
    for file in (plain, compressed):
        verdict_store.keep(made, file)
    assert verdict_store.read(compressed) == verdict_store.read(plain) != {}
    assert gzip.decompress(compressed.read_bytes()) == plain.read_bytes()


def test_a_knock_comes_once_and_costs_ticks(tiny_bundle: Path) -> None:
    long = dataclasses.replace(LINES, longest=500)
    contender = Contender("knocked", "w", "ddim:1", knocked=True)
    found = run_of(contender, tiny_bundle, [("push", seed) for seed in (1, 2, 4, 5, 7)], long)
    late = [each.solved for each in found.values()]
    assert all(each == 29 or each == 19 for each in late) and 29 in late  # unless it was there before the knock


def test_intervals_are_those_of_the_literature() -> None:
    low, high = confidence_intervals.wilson(8, 10)
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)  # Wilson 1927; R: prop.test(8, 10, correct = FALSE)
    assert confidence_intervals.wilson(0, 0) == (0.0, 1.0) and confidence_intervals.wilson(10, 10)[1] == pytest.approx(
        1.0
    )
    pair = confidence_intervals.Paired(100, gained=2, lost=10)
    assert pair.difference == -0.08 and pair.discordant == 0.12
    assert pair.p_value == pytest.approx(0.03857, abs=1e-5)  # R: binom.test(2, 12)
    assert confidence_intervals.Paired(50, 0, 0).p_value == 1.0
    low, high = pair.interval  # Bonett and Price 2012, with 3 and 11 of 102
    assert (low, high) == pytest.approx((-8 / 102 - 0.07020, -8 / 102 + 0.07020), abs=1e-4)


def test_the_bound_of_a_paired_difference_covers_it() -> None:
    """In about 95 % of many trials the true difference is above the bound."""
    generator, covered, trials = np.random.default_rng(0), 0, 2_000
    for _ in range(trials):
        gained, lost = generator.multinomial(400, [0.02, 0.03, 0.95])[:2]
        covered += confidence_intervals.Paired(400, gained, lost).bound <= -0.01
    assert 0.93 < covered / trials < 0.98
    assert -0.01 < confidence_intervals.Paired(4_000, 40, 40).bound < 0 < math.inf


def test_an_interval_of_a_difference_ends_at_that_of_all_pairs() -> None:
    low, high = confidence_intervals.Paired(40, 0, 39).interval
    assert low == -1.0 and high == pytest.approx(-0.826, abs=1e-3)


def test_the_expert_of_each_route_goes_its_way() -> None:
    hand, goal = np.array([0.0, 0.65, 0.15]), np.array([0.0, 0.87, 0.15])
    held = np.r_[hand, 0.5, hand + [0.0, 0.0, -0.02], np.zeros(29), goal]  # the puck is in the gripper
    moves = {route: past_the_wall(held, route) for route in ROUTES}
    assert moves["over"][2] > 0 and moves["left"][0] < 0 < moves["right"][0]
    assert all(move[3] == 1.0 and np.abs(move).max() <= 1 for move in moves.values())
    for route, (x, z) in {"over": (0.0, 0.25), "left": (-0.13, 0.1), "right": (0.33, 0.1)}.items():
        seen = np.zeros((5, 39))
        seen[:, 5] = np.linspace(0.6, 0.85, 5)
        seen[:, 4], seen[:, 6] = x, z
        assert route_of(seen) == route
    assert route_of(np.zeros((5, 39))) is None


def test_rescuers_open_fingers_that_are_closed_above_the_object() -> None:
    def seen(hand: list[float], gripper: float, thing: list[float], goal: list[float]) -> np.ndarray:
        return np.r_[hand, gripper, thing, np.zeros(29), goal]

    puck, goal, pushed = [0.0, 0.6, 0.02], [0.1, 0.8, 0.02], np.array([1.0, 1.0, 0.0, 0.6])
    for hand, gripper, rescued in (
        ([0.0, 0.6, 0.08], 0.3, True),
        ([0.0, 0.6, 0.08], 1.0, False),  # on its way down
        ([0.0, 0.6, 0.05], 0.3, False),  # it holds the puck
        ([0.1, 0.6, 0.08], 0.3, False),  # it is elsewhere
    ):
        action = experts._reopen(seen(hand, gripper, puck, goal), pushed)
        assert (action[2] == 1.0 and action[3] == -1.0) if rescued else (action == pushed).all()
    lid, box = [0.0, 0.5, 0.01], [0.0, 0.8, 0.13]
    aside, above, down, closed = (
        experts.close_the_box(seen([0.0, y, z], gripper, lid, box))
        for y, z, gripper in ((0.6, 0.2, 1.0), (0.5, 0.14, 0.3), (0.5, 0.04, 0.9), (0.5, 0.04, 0.4))
    )
    assert aside[1] == -1.0 and above[2] == -1.0  # to the lid, and down on it
    assert aside[3] == above[3] == -1.0 and down[3] == closed[3] == 1.0
    assert abs(down[2]) < 0.5 and closed[2] == 1.0  # it waits for the fingers, and lifts


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    import network

    monkeypatch.setattr(network, "WIDTHS", (8, 16, 16))
    torch.manual_seed(0)
    return network


def test_the_network_sees_decided_actions_in_the_place_of_noise(recipe: ModuleType) -> None:
    made = recipe.Network(torch.zeros(39), torch.cat([torch.ones(38), torch.zeros(1)]))
    x, prefix, seen = torch.randn(2, 32, 4), torch.randn(2, 32, 4), torch.rand(2, 1, 39)
    time, task = torch.tensor([30.0, 80.0]), torch.eye(5)[:2]

    def velocity(x: torch.Tensor, prefix: torch.Tensor, delay: float, seen: torch.Tensor = seen) -> torch.Tensor:
        with torch.no_grad():
            return made(x, time, seen, task, prefix, torch.full((2, 1), delay))

    other = torch.cat([torch.randn(2, 3, 4), x[:, 3:]], dim=1)
    assert torch.equal(velocity(x, prefix, 3.0), velocity(other, prefix, 3.0))
    assert not torch.allclose(velocity(x, prefix, 0.0), velocity(other, prefix, 0.0))
    assert not torch.allclose(velocity(x, prefix, 3.0), velocity(x, -prefix, 3.0))
    assert torch.equal(velocity(x, prefix, 0.0), velocity(x, -prefix, 0.0))
    constant = seen.clone()
    constant[..., -1] += 5  # what never changed in the demonstrations is left out
    assert torch.equal(velocity(x, prefix, 0.0), velocity(x, prefix, 0.0, constant))


def test_its_spec_is_that_of_a_policy_and_fits_the_network(recipe: ModuleType) -> None:
    spec = recipe.spec(((0.0,) * 39, (1.0,) * 39))
    assert spec.policy.problem(spec) is None
    inputs = inspect.signature(recipe.Network.forward).parameters
    assert [condition.name for condition in spec.conditions] == list(inputs)[3:]


def test_the_page_has_each_figure() -> None:
    lines = [tuple(f"{who} {column}" for column in table.HEAD) for who in ("experts", "policy")]
    text = success_rates.page(success_rates.PAGE.read_text(), lines, "They differ by 0.0123.")
    cells = [cell.strip() for line in text.splitlines() if line.startswith("| policy ") for cell in line.split("|")]
    assert sorted({*cells} - {""}) == sorted(lines[1]) and "They differ by 0.0123." in text


def test_episodes_are_counted_from_the_first_seed_on() -> None:
    assert blocks.blocks(range(4)) == [range(4)]
    assert blocks.blocks(range(5_000, 5_045)) == [range(5_000, 5_020), range(5_020, 5_040), range(5_040, 5_045)]


def test_the_table_has_all_whole_blocks_so_far_and_compares_those_that_two_have(tmp_path: Path) -> None:
    rivals = success_rates.contenders("w")
    assert len({contender.digest for contender in rivals}) == len(rivals)
    policy, other = rivals[1], rivals[2]
    assert (policy.name, other.name) == ("float32, 100 steps", "int8, 2 steps")
    known = {}
    for contender, seeds, unsolved in ((policy, range(4), 3), (other, range(5), 1)):
        episodes = [
            *itertools.product(success_rates.TASKS, seeds),
            ("push", 99),
        ]  # the last is of a block that was stopped
        found = {episode: Verdict(*episode, None if episode[1] == unsolved else 9) for episode in episodes}
        known[contender.digest] = found
    (tmp_path / "policy-1234.deviation").write_text("0.0123 0.0456\n")
    lines = success_rates.write(tmp_path, tmp_path / "policy-1234", rivals, known)
    assert [line[:3] for line in lines] == [(policy.name, "20", "75.0"), (other.name, "25", "80.0")]
    pairs = [line[table.HEAD.index("less reference (pairs, differ, at least, p)")] for line in lines]
    assert pairs[0] == "" and pairs[1].startswith("+0.0 (20, 50.0 %,")


def test_the_worst_jerk_is_that_of_the_motions() -> None:
    sent = [np.array([x, 0.0, 0.0, fingers]) for x, fingers in ((0.0, 1.0), (0.1, -1.0), (0.5, 1.0), (0.5, 1.0))]
    course = rollouts.Course(LINES, ("push", 0), Line("push"), {}, None, None, (-1, np.zeros(2)), sent=sent)
    assert course.worst_jerk() == pytest.approx(0.4)  # 0.5 - 2 * 0.5 + 0.1
    assert dataclasses.replace(course, sent=sent[:2]).worst_jerk() is None


def test_a_stored_worst_jerk_is_read_back(tmp_path: Path) -> None:
    made = {("push", seed): Verdict("push", seed, 30, worst_jerk=worst) for seed, worst in ((0, 0.25), (1, None))}
    verdict_store.keep([(Contender("experts"), made)], tmp_path / "verdicts.jsonl")
    assert verdict_store.read(tmp_path / "verdicts.jsonl")[Contender("experts").digest] == made
