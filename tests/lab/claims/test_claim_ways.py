"""Ways of claims: each line runs the system that it names, with the numbers that its row states."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.literature.streams import SimilarityFilter
from fewstep.plans.guidance import Residual
from fewstep.plans.transforms import use_given_noise
from fewstep.runtime import load, spectrogram
from fewstep.runtime.bundle.manifest import Spectrogram
from fewstep.runtime.windows import window_places
from lab.claims import claim_ways, edit_ways, scores, student_ways
from lab.claims.claim import MORE_STEPS, OF_ITS_PLAN, Claim
from lab.claims.claims import CLAIMS
from lab.claims.measure_claim import Timing, judge_claim
from lab.claims.settings import APART, Setting


def claims_of(system: str, control: str | None = None) -> list[Claim]:
    found = [claim for claim in CLAIMS if claim.system == system and control in (None, claim.control)]
    assert found
    return found


def brightness(feeds: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return logits that rise with the brightness of a picture, for all labels but the last."""
    return {"logits": np.outer(feeds["x"].mean((1, 2, 3)), np.r_[np.ones(9), 0])}


@pytest.fixture
def tiny(tiny_bundle: Path) -> Setting:
    """Four seeds of label 1, whose reward is brightness."""
    judge: Any = SimpleNamespace(input="x", graph=brightness)
    return Setting(load(tiny_bundle), judge, "class", range(11, 51, 10), source="fashion_mnist")


def test_the_search_tries_three_neighbours_of_the_best_noise(tiny: Setting) -> None:
    """Each seed's noise moves by itself, where its reward rises."""
    plan, draws = use_given_noise(tiny.sampler.compile("ddim:10", 1.0)), tiny.sampler.draws(tiny.seeds)
    z, moved = draws(0).astype(float), 0
    for number in (1, 2, 3):
        tried = 0.84**0.5 * z + 0.4 * draws(number)
        x, made = (tiny.sample(plan, given={"noise": each.astype(np.float32)}) for each in (z, tried))
        is_better = tiny.reward(made) > tiny.reward(x)
        z[is_better], moved = tried[is_better], moved + is_better.sum()
    expected = tiny.sample(plan, given={"noise": z.astype(np.float32)})
    for claim in claims_of("noise search"):
        np.testing.assert_allclose(claim.ours(tiny), expected, atol=1e-5)
    assert 2 < moved < 10


def test_the_control_of_a_search_has_the_number_of_steps_that_is_best_on_other_seeds(
    tiny: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(s: Setting, plan: str) -> NDArray[Any]:
        steps = int(plan.removeprefix("ddim:"))
        return np.full((len(s.seeds), 1, 2, 2), float(steps == 20 if s.seeds == APART else steps))

    monkeypatch.setattr(Setting, "sample", sample)
    monkeypatch.setattr(Setting, "reward", lambda s, x: x.mean((1, 2, 3)))
    (claim,) = claims_of("noise search", MORE_STEPS)
    assert np.unique(claim.plain(tiny, claim.evaluations)).tolist() == [20]
    still = replace(claim, ours=lambda s: s.picture)
    monkeypatch.setattr(Setting, "picture", np.zeros((4, 1, 2, 2)))
    line = judge_claim("tiny", tiny, still, Timing(1.0, 1.0, 40, 1.0, is_steady=True), [])
    assert (line.evaluations, line.of_plain) == (40, 20)  # which the page prints


def test_reinforce_moves_the_mean_of_a_class_in_four_rounds(tiny: Setting) -> None:
    """The samples are those of the last round, each round has other noises, and three rounds moved the mean."""
    plan, shift = use_given_noise(tiny.sampler.compile("ddim:10", 1.0)), np.zeros(tiny.sampler.bundle.manifest.x_shape)
    for number in range(4):
        z = tiny.sampler.draws([seed + 1000 * number for seed in tiny.seeds])(0)
        x = tiny.sample(plan, given={"noise": (z + shift).astype(np.float32)})
        r = tiny.reward(x)
        shift = shift + 0.3 * np.mean(((r - r.mean()) / r.std())[:, None, None, None] * z, 0)
    (claim,) = claims_of("REINFORCE on the start")
    np.testing.assert_allclose(claim.ours(tiny), x, atol=1e-5)


@pytest.mark.parametrize(
    ("system", "tilt", "how"),
    [
        # As for the authors' pictures
        ("FK steering", (10.0, "max", range(2, 10, 2)), {"at": range(2, 10, 2), "threshold": 1.0}),
        ("SVDD", (1.0,), {"choice": "best"}),
    ],
)
def test_populations_have_four_particles_in_ten_steps(
    system: str, tilt: tuple[Any, ...], how: dict[str, Any], tiny: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []
    monkeypatch.setattr(claim_ways, "Steering", lambda *args: args)
    made: Any = SimpleNamespace(samples=np.zeros((4, 4, 1)))
    monkeypatch.setattr(claim_ways, "population", lambda *args, **options: ran.append((args, options)) or made)
    for claim in claims_of(system):
        claim.ours(tiny)
    assert len(ran) == 3
    for (_, plan, (_, strength, its_plan, *rest), _, particles, _), options in ran:
        assert (plan.name, its_plan, particles) == ("ddpm:10", plan, 4)
        assert (strength, *rest) == tilt
        assert {name: value for name, value in options.items() if name != "batch"} == how


def test_rollover_stands_next_to_svdd_in_as_many_evaluations() -> None:
    (claim,) = claims_of("RBF", "SVDD")
    assert claim.plain is claims_of("SVDD")[0].ours and claim.evaluations == 4 * 10


@pytest.mark.parametrize(("control", "solver"), [("best of N", "ddim"), (OF_ITS_PLAN, "ddpm")])
def test_the_best_of_n_has_four_noises_of_a_seed(control: str, solver: str, tiny: Setting) -> None:
    for claim in claims_of("SVDD", control):
        made = claim.plain(tiny, claim.evaluations)
        rewards = [
            tiny.reward(tiny.sampler.sample(f"{solver}:10", [64 * seed + n for seed in tiny.seeds], {"class": [1] * 4}))
            for n in range(4)
        ]
        np.testing.assert_allclose(claim.score(tiny, made), np.max(rewards, 0), atol=1e-6)


@pytest.mark.parametrize("system", ["FK steering", "RBF", "SVDD"])
def test_the_best_of_two_with_guidance_has_as_many_evaluations(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    monkeypatch.setattr(claim_ways, "several", lambda s, *how: drawn.append(how))
    (claim,) = claims_of(system, "guidance, best of 2")
    claim.plain(None, claim.evaluations)  # type: ignore[arg-type]
    assert drawn == [("ddim:10", 2, 6.0)] and claim.evaluations == 2 * 2 * 10


@pytest.mark.parametrize(("model", "weight"), [("fashion_mnist", 3.0), ("cifar10", 1.4)])
def test_residual_guidance_has_as_many_evaluations_as_two_branches(model: str, weight: float, tiny: Setting) -> None:
    setting: Any = SimpleNamespace(source=model, picture=0, sample=lambda plan, _, **options: (plan, options))
    (claim,) = claims_of("StreamDiffusion RCFG")
    ours, theirs = claim.ours(setting), claim.plain(setting, claim.evaluations)
    assert (ours[1]["guidance"], theirs[1]["guidance"]) == (Residual(weight), 6.0)
    for plan, options in (ours, theirs):
        compiled = tiny.sampler.compile(plan, options["guidance"], strength=options["strength"])
        assert options["strength"] == 0.6 and sum(len(step.branches) for step in compiled.steps) == claim.evaluations


def test_a_threshold_on_pixels_selects_changes_and_each_eleventh_frame() -> None:
    noise = 0.02 * np.random.default_rng(0).standard_normal((22, 1, 8, 8))
    scenes = np.where(np.arange(22) < 5, 0.0, 0.1)[:, None, None, None]
    for film, places in ((noise, [0, 11]), (noise + scenes, [0, 5, 16])):
        assert claim_ways.select_changed(film) == places


def test_streams_are_a_batch_next_to_a_sequence_and_a_filter_next_to_none(
    tiny: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Films of two still scenes have two pictures, and a camera's noise in each frame."""
    made, films, seeds = [], [], []

    def stream(sampler: object, **options: Any) -> Any:
        made.append((options["mode"], options.get("similar")))
        seeds.append(options.get("seed"))
        frames = lambda film: films.append(film) or [SimpleNamespace(fresh=True)] * len(film)  # noqa: E731
        frames.stats = lambda: SimpleNamespace(calls=4)
        return frames

    monkeypatch.setattr(claim_ways, "stream", stream)
    (batch,), (similar,) = claims_of("StreamDiffusion batch"), claims_of("StreamDiffusion filter", "no filter")
    batch.ours(tiny), batch.plain(tiny, 4)
    assert (made, batch.asked) == ([("batch", None), ("sequence", None)], 1.5)
    assert similar.ours(tiny).tolist() == similar.plain(tiny, 4).tolist() == [5.5] * 4
    assert made[2:] == [("sequence", SimilarityFilter(0.98, 10))] * 4 + [("sequence", None)] * 4
    assert seeds[2:] == [*tiny.seeds] * 2
    for film, first, second in zip(films[2:], [*tiny.picture] * 2, [*np.roll(tiny.picture, -1, 0)] * 2, strict=True):
        noise = film - np.stack([first] * 6 + [second] * 16)
        assert len(film) == 22 and noise.std() == pytest.approx(0.02, rel=0.2) and abs(noise.mean()) < 0.005


@pytest.mark.parametrize(("fresh", "figure"), [({0}, 22 / 20), ({0, 6}, 5.5), ({0, 3, 9}, 22 / 7)])
def test_a_frame_of_the_scene_before_counts_as_a_call(
    fresh: set[int], figure: float, tiny: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter that skips all of the second scene, of 16 frames, does not win."""

    def stream(*_: object, **__: object) -> Any:
        frames = lambda film: [SimpleNamespace(fresh=place in fresh) for place in range(len(film))]  # noqa: E731
        frames.stats = lambda: SimpleNamespace(calls=4)
        return frames

    monkeypatch.setattr(claim_ways, "stream", stream)
    assert claim_ways.watch(tiny, None).tolist() == pytest.approx([figure] * 4)


@pytest.mark.parametrize(
    ("control", "steps", "overlap"), [("windows that stand", 15, 0), ("windows that overlap by half", 10, 14)]
)
def test_windows_that_move_are_next_to_others_of_as_many_evaluations(
    control: str, steps: int, overlap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Any] = []
    keep = lambda sampler, plan, shape, tiles, *_, **__: ran.append((plan, shape, tiles)) or np.zeros(1)  # noqa: E731
    monkeypatch.setattr(edit_ways, "sample_tiles", keep)
    sampler = SimpleNamespace(
        bundle=SimpleNamespace(manifest=SimpleNamespace(x_shape=(1, 28, 28))), compile=lambda name, _: name
    )
    setting: Any = SimpleNamespace(sampler=sampler, seeds=range(1), who={})
    (claim,) = claims_of("Any-Size-Diffusion", control)
    claim.ours(setting), claim.plain(setting, claim.evaluations)
    assert [(plan, tiles.overlap, tiles.moves) for plan, _, tiles in ran] == [
        ("ddim:10", 0, True), (f"ddim:{steps}", overlap, False),
    ]  # fmt: skip
    for plan, shape, tiles in ran:
        offsets = range(int(plan[5:]), 0, -1) if tiles.moves else [0] * steps
        windows = [len(window_places(shape, (1, 28, 28), tiles.overlap, 1, offset)) for offset in offsets]
        assert shape == (1, 28, 56) and sum(windows) == claim.evaluations
    x = np.cumsum([0.1] * 4 + [0.5] + [0.1] * 3)[None, None, None]  # the step at the border in the middle
    assert claim.score(setting, x).tolist() == pytest.approx([-5.0])


def test_restorers_start_where_their_papers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resfusion at the degraded sample itself, whole; StoRM's score network takes the prediction, which is of y."""
    ran: list[tuple[str, str, dict[str, Any]]] = []

    def lower(source: str, precision: str, *_: object, **__: object) -> Any:
        def sample(plan: str, seeds: range, **options: Any) -> NDArray[Any]:
            ran.append((source.rpartition("/")[2], plan, options))
            return np.full((2, 1), float(plan == "ddim:1"))

        return SimpleNamespace(sample=sample)

    monkeypatch.setattr(student_ways, "_lower", lower)
    y = np.array([[3.0], [4.0]])
    setting: Any = Setting(SimpleNamespace(), None, "y", range(2), pairs=(0 * y, y), source="x")  # type: ignore[arg-type]
    for system, plan, control in (
        ("Resfusion", "ddpm:5", "the same in float32"),
        ("StoRM", "ddim:5", "the prediction alone"),
        ("StoRM as published, 5 steps", "sgmse(corrections=0):5@linspace", None),
    ):
        (claim,) = claims_of(system, control)
        claim.ours(setting)
        source, ran_plan, options = ran[-1]
        assert ran_plan == plan
        np.testing.assert_array_equal(options["condition"]["y"], y)
        if system == "Resfusion":
            np.testing.assert_array_equal(options["given"]["image"], y)
            assert (source, options["strength"], len(ran)) == ("resfusion.py:make", 1.0, 1)
        else:
            assert (source, ran[-2][:2]) == ("storm.py:make", ("storm.py:predictor", "ddim:1"))
            assert (options["condition"]["predicted"] == 1).all() and "predicted" not in ran[-2][2]["condition"]


def test_si_sdr_is_the_ratio_of_a_signal_to_what_is_orthogonal_to_it() -> None:
    """20 dB at half the loudness."""
    rng, sound = np.random.default_rng(0), Spectrogram(rate=8000, n_fft=126, hop=42, exponent=0.5, factor=0.3)
    clean, noise = 0.1 * rng.standard_normal((2, 3, spectrogram.sample_count(sound, 32)))
    noise -= (noise * clean).sum(1, keepdims=True) / (clean**2).sum(1, keepdims=True) * clean
    noise *= 0.1 * np.linalg.norm(clean, axis=1, keepdims=True) / np.linalg.norm(noise, axis=1, keepdims=True)
    first, second = (spectrogram.encode(sound, each) for each in (clean, 0.5 * (clean + noise)))
    setting: Any = SimpleNamespace(
        clean=first, sampler=SimpleNamespace(bundle=SimpleNamespace(manifest=SimpleNamespace(spectrogram=sound)))
    )
    np.testing.assert_allclose(scores.si_sdr(setting, second), 20.0, atol=0.01)


def test_edits_of_more_seeds_than_a_batch_have_the_pictures_of_their_seeds(
    tiny: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directions need 128 seeds, and a batch has 64."""
    made = [way(tiny) for way in (edit_ways.guide_by_two_branches, lambda s: edit_ways.inpaint(s, 4))]
    monkeypatch.setattr("lab.claims.settings.BATCH", 3)
    again = [way(tiny) for way in (edit_ways.guide_by_two_branches, lambda s: edit_ways.inpaint(s, 4))]
    np.testing.assert_allclose(np.stack(made), np.stack(again), atol=1e-5)
