"""The blocks of docs/compose.md and lab/compositions.md are correct, on networks with known answers."""

from itertools import chain, count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fewstep.runtime
from fewstep.plans.compile import compile_plan
from fewstep.plans.noise import normal
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail, tail_inputs
from fewstep.runtime import Hold, Sampler
from fewstep.runtime.runs.tiles import Tiles, sample_tiles
from fewstep.runtime.sampling.execute import execute, finish
from tests.docs.docs_blocks import blocks, functions
from tests.plans.mixture import Mixture

PAGES = [Path(__file__).parents[3] / page for page in ("docs/compose.md", "lab/compositions.md")]
MODES = Mixture((0.48, 0.52), (-0.8, 0.8), (0.1, 0.1))
WHO = {"class": [1]}
IMAGE, UPPER = np.full((1, 1, 4, 4), 0.7, np.float32), np.repeat(np.float32([1, 0]), 8).reshape(1, 4, 4)


@pytest.fixture(scope="module")
def page() -> SimpleNamespace:
    pytest.importorskip("torch")  # which some blocks of the pages import
    return functions(*PAGES)


@pytest.fixture
def modes(tiny_bundle: Path) -> Sampler:
    """The exact denoiser of two modes, for each pixel alone."""
    sampler = fewstep.runtime.load(tiny_bundle)
    schedule = NoiseSchedule(sampler.bundle.manifest.schedule)

    def network(feeds):
        x, v = feeds["x"], np.empty_like(feeds["x"])
        for place, row in enumerate(feeds["row"][:, 0]):
            time = schedule.time(round(float(row) * 1000, 2) % 100)  # labels add hundreds
            x0 = MODES.exact_x0(x[place], time)
            v[place] = time.alpha * (x[place] - time.alpha * x0) / time.sigma - time.sigma * x0
        return {"v": v}

    return sampler.with_network_parts(graph=network)


def mean(x: np.ndarray) -> np.ndarray:
    return x.mean(axis=(1, 2, 3))


def watch_calls(sampler: Sampler) -> tuple[Sampler, list]:
    """Return the sampler, and the x and the time of each of its calls."""
    calls: list[tuple[np.ndarray, float]] = []

    def network(feeds):
        calls.append((feeds["x"].copy(), float(feeds["row"][0, 0])))
        return sampler.network().graph(feeds)

    return sampler.with_network_parts(graph=network), calls


def sampler_of(plan, shape, network) -> SimpleNamespace:
    """Return a sampler with a plan and a network(u, condition)."""
    draws = lambda seeds: lambda number: np.stack([normal(seed, number, shape) for seed in seeds])  # noqa: E731
    run = lambda plan, samples, who: lambda i, step, u: [network(u, who)]  # noqa: E731
    return SimpleNamespace(compile=lambda name: plan, draws=draws, step_network=run)


def test_every_example_has_at_most_15_lines() -> None:
    for block in (each for page in PAGES for each in blocks(page) if each.kind == "python"):
        lines = [line for line in block.text.splitlines() if line.strip() and not line.startswith(("import", "from"))]
        assert len(lines) <= 20
        for part in block.text.split("\ndef ")[1:]:
            body = [line for line in part.splitlines()[1:] if line.startswith(" ") and line.strip()]
            assert len(body) <= 15


@pytest.mark.parametrize("neighbours", [1, 3])
def test_noise_search_finds_a_better_noise(page, sampler: Sampler, neighbours: int) -> None:
    """After an increase of the reward, the noises of the next rounds are near the better one."""
    plan, draws = page.use_given_noise(sampler.compile("ddim:4")), sampler.draws([0])
    made = lambda z: sampler.sample(plan, [0], WHO, given={"noise": z})  # noqa: E731
    for sign in (1, -1):
        z, taken = draws(0), 0
        for n in range(0, 21, neighbours):
            tried = [0.6 * z + 0.8 * draws(n + k) for k in range(1, neighbours + 1)]
            best = max(tried, key=lambda each: sign * mean(made(each)))
            if sign * mean(made(best)) > sign * mean(made(z)):
                z, taken = best, taken + 1
        x = page.noise_search(
            sampler, "ddim:4", lambda x, sign=sign: sign * mean(x), 0, WHO, 1 + 21 // neighbours, 0.8, neighbours
        )
        np.testing.assert_array_equal(x, made(z))
        assert taken > 1


def test_the_start_moves_towards_what_is_rewarded(page, sampler: Sampler) -> None:
    plan, seeds = page.use_given_noise(sampler.compile("ddim:2")), range(1000, 1032)
    z = sampler.draws(seeds)(0)

    def mean_reward(reward) -> float:
        shift = page.rewarded_mean(sampler, "ddim:2", reward, 1, rounds=12)
        return float(
            mean(sampler.sample(plan, seeds, {"class": [1] * 32}, given={"noise": np.float32(z + shift)})).mean()
        )

    plain = mean(sampler.sample(plan, seeds, {"class": [1] * 32}, given={"noise": z})).mean()
    assert mean_reward(mean) > plain + 0.05 and mean_reward(lambda x: -mean(x)) < plain - 0.05
    shift = np.zeros(z.shape[1:])
    for seeds in (range(16), range(16, 32)):
        z = sampler.draws(seeds)(0)
        r = mean(sampler.sample(plan, seeds, {"class": [1] * 16}, given={"noise": np.float32(shift + z)}))
        shift = shift + 0.3 * np.einsum("b,b...->...", (r - r.mean()) / r.std(), z) / 16
    np.testing.assert_allclose(page.rewarded_mean(sampler, "ddim:2", mean, 1, rounds=2), shift, atol=1e-5)


def test_phase_noise_has_the_phases_of_one_and_the_magnitudes_of_the_other(page) -> None:
    image, noise = np.random.default_rng(0).standard_normal((2, 1, 1, 16, 16))
    z = np.fft.fft2(page.phase_noise(image, noise))
    np.testing.assert_allclose(np.abs(z), np.abs(np.fft.fft2(noise)), atol=1e-4)
    assert np.abs(np.exp(1j * np.angle(z)) - np.exp(1j * np.angle(np.fft.fft2(image)))).max() < 1e-3


def test_beyond_the_cutoff_the_phases_are_the_noise_s(page) -> None:
    """The authors' mask: 1 up to the cutoff, then a Gaussian of the distance. Inside it the phases are mixed."""
    image, noise = np.random.default_rng(0).standard_normal((2, 1, 1, 16, 16))
    phases = [np.angle(np.fft.fft2(each)) for each in (page.phase_noise(image, noise, 3, 0.5), image, noise)]
    wave = np.hypot(*np.meshgrid(np.fft.fftfreq(16) * 16, np.fft.fftfreq(16) * 16))
    near, far = np.exp(1j * (phases[0] - phases[1])), np.exp(1j * (phases[0] - phases[2]))
    assert np.abs(near - 1)[..., wave <= 3].max() < 1e-3
    assert np.abs(far - 1)[..., wave > 6].max() < 1e-3
    assert np.abs(far - 1)[..., wave <= 3].mean() > 0.5
    share = np.exp(-(np.maximum(wave - 3, 0) ** 2) / (2 * 0.5**2))
    np.testing.assert_array_equal(page.phase_noise(image, noise, 3), page.phase_noise(image, noise, 3, 2.0))
    assert np.abs(np.exp(1j * (phases[0] - share * phases[1] - (1 - share) * phases[2])) - 1).max() < 1e-3


def test_grey_is_held_in_a_basis_of_colours(page) -> None:
    """Three colours, which the network mixes: grey is restored, and the plain hold restores all colours."""
    shape, seeds = (3, 4, 4), [0, 1]
    plan = compile_plan("ddpm:3", DenoiserFacts(ScheduleSpec("linear"), "epsilon"))
    sampler = sampler_of(plan, shape, lambda u, who: 0.1 * u[:, ::-1])
    picture = np.random.default_rng(0).uniform(-1, 1, (2, *shape)).astype(np.float32)
    basis = np.array([[3**-0.5, 2**-0.5, 6**-0.5], [3**-0.5, -(2**-0.5), 6**-0.5], [3**-0.5, 0, -2 * 6**-0.5]])
    x = page.colourised(sampler, "ddpm:3", seeds, {}, picture, basis, np.array([1.0, 0, 0]))
    np.testing.assert_allclose(x.mean(1), picture.mean(1), atol=1e-4)  # x is a hundred before it is put back
    assert np.abs(x - picture).max() > 0.1
    hold = Hold(picture, np.array([1.0, 0, 0]).reshape(3, 1, 1), fresh=True)
    plain = page.colourised(sampler, "ddpm:3", seeds, {}, picture, np.eye(3), np.array([1.0, 0, 0]))
    network, draws = sampler.step_network(plan, 2, {}), sampler.draws(seeds)
    expected = finish(plan, execute(plan, network, draws, hold=hold), hold=hold)
    np.testing.assert_allclose(plain, expected, atol=1e-4)


def test_a_condition_that_is_drawn_is_that_of_emdm(page) -> None:
    """Four steps of the posterior q(x_s | x_t, x0), each from x0 of a latent that the seed draws."""
    betas, shape, seeds = (0.1, 0.3, 0.5, 0.7), (5,), [3, 4]
    plan = compile_plan("ddpm:4", DenoiserFacts(ScheduleSpec("betas", 4, betas=betas), "sample"))
    made = lambda x, z: np.tanh(0.5 * x + z.mean(-1, keepdims=True))  # noqa: E731
    sampler = sampler_of(plan, shape, lambda u, who: made(u, np.asarray(who["z"])))
    x = page.drawn(sampler, "ddpm:4", seeds, {}, "z", (8,))
    drawn = lambda number, size: np.stack([normal(seed, number, size) for seed in seeds]).astype(float)  # noqa: E731
    bars = np.append(1.0, np.cumprod(1 - np.array(betas)))
    expected = np.sqrt(1 - bars[4]) * drawn(0, shape)
    for i, t in enumerate((4, 3, 2, 1)):
        x0, beta = made(expected, drawn(2**30 + i, (8,))), betas[t - 1]
        mean = np.sqrt(bars[t - 1]) * beta * x0 + np.sqrt(1 - beta) * (1 - bars[t - 1]) * expected
        noise = np.sqrt(beta * (1 - bars[t - 1]) / (1 - bars[t])) * drawn(i + 1, shape) if t > 1 else 0.0
        expected = mean / (1 - bars[t]) + noise
    np.testing.assert_allclose(x, expected, atol=1e-5)


def test_a_draft_without_noise_is_the_network_s_first_input(page, sampler: Sampler) -> None:
    """RTI-DP passes the last actions unchanged to a late step, as Trajectory Diffuser does with a draft."""
    draft = np.full((1, 1, 4, 4), 0.3, np.float32)
    plan = sampler.compile("dpmpp_2m:10", strength=0.2, renoise=0)
    first = next(iter(sampler.steps(plan, [0], WHO, given={"image": draft})))
    np.testing.assert_allclose(first.u, draft, rtol=1e-6)
    predictor = lambda condition: draft if condition == WHO else None  # noqa: E731
    made = page.from_draft(sampler, predictor, WHO, 0.2, 0)
    np.testing.assert_array_equal(made, sampler.sample(plan, [0], WHO, given={"image": draft}))
    noised = page.from_draft(sampler, predictor, WHO)
    np.testing.assert_array_equal(noised, sampler.sample("dpmpp_2m:10", [0], WHO, given={"image": draft}, strength=0.4))


def test_a_chain_of_denoising_mcmc_ends_in_the_modes(page, modes: Sampler) -> None:
    """Langevin moves at the level that each residual indicates; of every four states the one with the least noise is
    denoised.
    """
    plan, draws, schedule = modes.compile("ddim:12"), modes.draws([0]), NoiseSchedule(modes.bundle.manifest.schedule)
    rho, k, states = np.array([step.sigma / step.alpha for step in plan.steps]), 6, []
    y = rho[k] * draws(0).astype(float)
    for n in range(1, 121):
        x0 = MODES.exact_x0(plan.steps[k].alpha * y, schedule.time(plan.steps[k].time))
        y = 0.85 * y + 0.15 * x0 + 0.3**0.5 * rho[k] * draws(n)
        k = int(np.abs(np.log(rho) - np.log(np.mean((y - x0) ** 2) ** 0.5)).argmin())
        states.append((k, y))
    chain = page.denoising_mcmc(modes, "ddim:12", 0, 1, samples=30)
    for x, four in zip(chain, (states[at : at + 4] for at in range(0, 120, 4)), strict=True):
        k, y = max(four, key=lambda each: each[0])
        row = (plan.steps[k].alpha * y).astype(np.float32)
        np.testing.assert_allclose(x, modes.sample(tail(plan, k), [0], WHO, given={"row0": row})[0], atol=1e-3)
    assert np.abs(np.diff(np.sign(chain), axis=0)).sum() > 20 and 0.2 < (chain > 0).mean() < 0.8  # from mode to mode


def test_a_story_shares_its_first_steps(page, sampler: Sampler) -> None:
    """Each picture continues from the third state of the first, under its own class."""
    plan, labels = sampler.compile("dpmpp_2m:8"), [1, 2, 0]
    story = page.sequence(sampler, plan.name, 3, labels)
    np.testing.assert_array_equal(story[0], sampler.sample(plan, [0], WHO)[0])
    rows = tail_inputs(list(sampler.steps(plan, [0], WHO))[2].after)
    for picture, label in zip(story, labels, strict=True):
        expected = sampler.sample(tail(plan, 3), [0], {"class": [label]}, given=rows)[0]
        np.testing.assert_allclose(picture, expected, atol=1e-6)


def test_direct_inversion_gives_the_source_back(page, sampler: Sampler) -> None:
    image = sampler.sample("ddim:20", [3], WHO)
    rows, graph = list[np.ndarray](), sampler.network().graph
    shows = sampler.with_network_parts(graph=lambda feeds: rows.append(feeds["row"].copy()) or graph(feeds))
    source, edited = page.direct_inversion(shows, image, 1, 2)
    assert len(rows) == 20 and all((row[0] != row[1]).any() for row in rows[10:])  # each under its own class
    np.testing.assert_array_equal(source, image[0])
    inverse = sampler.sample("ddim_inverse:10", [0], WHO, given={"x": image})
    plain = sampler.sample(tail(sampler.compile("ddim:10"), 0), [0], {"class": [2]}, given={"row0": inverse})
    np.testing.assert_array_equal(edited, plain[0])
    back = sampler.sample(tail(sampler.compile("ddim:10"), 0), [0], WHO, given={"row0": inverse})
    assert np.abs(back - image).max() > 1e-3  # without the source's states it drifts


@pytest.mark.slow
def test_direct_inversion_with_masactrl_keeps_the_edit_near_to_the_source(page, tmp_path: Path) -> None:
    """The target's steps by hand: its queries, and the keys and values of the source's own states."""
    torch = pytest.importorskip("torch")
    from tests.literature.attention.networks import export_block

    sampler, image = (
        fewstep.runtime.load(export_block(tmp_path, "masactrl", "copying")),
        0.5 * normal(0, 7, (1, 2, 4, 4)),
    )
    plain, edited = (page.direct_inversion(sampler, image, 1, 2, mutual=mutual) for mutual in (0, 1))
    np.testing.assert_array_equal(plain[0], image[0])
    np.testing.assert_array_equal(edited[0], image[0])
    away, near = (np.abs(each[1] - each[0]).mean() for each in (plain, edited))
    assert near > 0.1 and away / near == pytest.approx(2.4, abs=0.05)

    states = list(sampler.steps("ddim_inverse:10", [0], {"class": [1]}, given={"x": image}))
    kept = [state.after[0] for state in reversed(states)]
    x, steps = kept[0], sampler.compile("ddim:10").steps
    for source, step, after in zip(kept, steps, [*steps[1:], None], strict=True):
        q, k = (torch.from_numpy(each.reshape(1, 2, 16)).transpose(1, 2) for each in (x, source))
        seen = torch.softmax(4 * q @ k.transpose(1, 2) / 2**0.5, -1) @ k
        x0 = seen.transpose(1, 2).reshape(1, 2, 4, 4).numpy() + 0.5
        x = after.alpha * x0 + after.sigma * (x - step.alpha * x0) / step.sigma if after else x0
    np.testing.assert_allclose(edited[1:], x, atol=1e-4)


def test_cow_cycles_with_the_picture_s_inverted_states(page, modes: Sampler) -> None:
    """As in the authors' code, by hand: 10 cycles over steps 3 and 4 of 10, from an inverted grey, then one more
    replacement, nearly without noise. The held part is free at the end.
    """
    shown = []

    def network(feeds):
        shown.append(feeds["x"].copy())
        return modes.network().graph(feeds)

    x = page.cow(modes.with_network_parts(graph=network), IMAGE, UPPER, WHO)
    kept = [s.after[0] for s in modes.steps("ddim_inverse:10", [0], WHO, given={"x": IMAGE * UPPER})][::-1]
    steps, numbers = modes.compile("ddim:10").steps, chain((0, 4, 5), count(10))
    levels = [*((step.alpha, step.sigma) for step in steps), (1.0, 0.0)]

    def up(x: np.ndarray) -> np.ndarray:
        a = levels[3][0] / levels[5][0]
        return a * x + np.sqrt(1 - a**2) * modes.draws([0])(next(numbers))

    def down(x: np.ndarray, at: int, eta: float, draw: int) -> np.ndarray:  # equations 12 and 16 of DDIM
        (a, s), (after, rest) = levels[at : at + 2]
        v = modes.evaluate(x.astype(np.float32), steps[at].time, WHO)
        deviation = eta * rest / s * np.sqrt(1 - (a / after) ** 2)
        epsilon = s * x + a * v
        return after * (a * x - s * v) + np.sqrt(rest**2 - deviation**2) * epsilon + deviation * modes.draws([0])(draw)

    expected, seen = kept[5], []
    for at in (*(3, 4) * 10, 5, 6, 7, 8, 9):
        expected = up(expected) if at == 3 else expected
        seen.append(np.where(UPPER == 1, kept[at], expected) if at < 7 else expected)
        expected = down(seen[-1], at, *((1.0, next(numbers)) if at < 5 else (0.1, at + 1)))
    np.testing.assert_allclose(shown[7:], seen, atol=1e-4)
    np.testing.assert_allclose(x, expected, atol=1e-4)


def test_a_held_part_travels_up_and_down(page, modes: Sampler) -> None:
    """RePaint: the steps repeat as the plan says, and the held part is in the sample."""
    plan = page.time_travel(modes.compile("ddpm:20"), repeats=3, jump=5)
    assert len(plan.steps) == 4 + 3 * 15 + 1
    x = modes.sample(plan, [0], WHO, hold=page.Hold(IMAGE, UPPER, fresh=True))
    np.testing.assert_array_equal(x[:, :, :2], IMAGE[:, :, :2])
    assert np.abs(np.abs(x[:, :, 2:]) - 0.8).max() < 0.5


@pytest.mark.parametrize("shared", [1, 2, 3])
def test_windows_share_the_states_where_they_overlap(page, sampler: Sampler, shared: int) -> None:
    states = list(sampler.steps("ddim:6", [0], WHO))
    first = [*(state.before[0] for state in states), sampler.sample("ddim:6", [0], WHO)]
    second = page.extend(sampler, "ddim:6", first, shared, 1, WHO)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(other[..., :shared], one[..., -shared:])
    third = page.extend(sampler, "ddim:6", second, shared, 2, WHO)
    np.testing.assert_array_equal(third[-1][..., :shared], second[-1][..., -shared:])


def test_windows_are_fused_as_stable_avatar_does(page, sampler: Sampler) -> None:
    """The recurrence of its code: a step of each window from one state, and the states joined where windows overlap."""
    labels, seeds = (1, 2, 0), [0, 1]  # each window shares three columns with the one before
    x = page.fused_windows(sampler, "ddim:4", 3, seeds, [{"class": [label] * 2} for label in labels])
    plan, latents = sampler.compile("ddim:4"), np.stack([normal(seed, 0, (1, 4, 6)) for seed in seeds])
    ramp = np.log1p(np.linspace(0, 1, 3) * (np.e - 1))
    ends = [*((step.alpha, step.sigma) for step in plan.steps[1:]), (1.0, 0.0)]
    for i, (step, (alpha, sigma)) in enumerate(zip(plan.steps, ends, strict=True)):
        fused = np.zeros_like(latents)
        for number, label in enumerate(labels):
            window = latents[..., number : number + 4]
            v = sampler.evaluate(window.astype(np.float32), step.time, {"class": [label] * 2})
            new = alpha * (step.alpha * window - step.sigma * v) + sigma * (step.sigma * window + step.alpha * v)
            if number and i:
                new[..., :3] = new[..., :3] * ramp + fused[..., number : number + 3] * (1 - ramp)
            fused[..., number : number + 4] = new
        latents = fused
    np.testing.assert_allclose(x, latents, atol=1e-5)
    alone = page.fused_windows(sampler, "ddim:4", 2, seeds, [{"class": [1] * 2}])
    np.testing.assert_array_equal(alone, sampler.sample("ddim:4", seeds, {"class": [1] * 2}))


def test_a_cascade_refines_the_enlarged_sample(page, sampler: Sampler) -> None:
    """After the small sample's six steps, the first window is a part of the enlarged sample with its share of noise."""
    small, (shows, calls) = sampler.sample("dpmpp_2m:6", [0], WHO), watch_calls(sampler)
    weak, strong = (page.cascade(shows, "dpmpp_2m:6", 3, WHO, strength) for strength in (0.5, 1.0))
    large, step = small.repeat(3, -1).repeat(3, -2), sampler.compile("dpmpp_2m:6", strength=0.5).steps[0]
    noised = step.alpha * large + step.sigma * normal(0, 0, (1, 12, 12))
    np.testing.assert_allclose(calls[6][0], noised[..., :4, :4], atol=1e-6)
    rest, given = sampler.compile("dpmpp_2m:6", strength=0.5), {"image": large}
    by_hand = sample_tiles(sampler, rest, large.shape[1:], Tiles(2), [0], condition=WHO, given=given)
    np.testing.assert_array_equal(weak, by_hand)
    assert weak.shape == large.shape and np.abs(weak - large).mean() < np.abs(strong - large).mean()
    assert len(calls) == 2 * 6 + (3 + 6) * 5**2  # windows begin at 0, 2, ..., 8 along each axis


def test_conditions_change_on_the_way(page, sampler: Sampler) -> None:
    same = page.changing(sampler, "ddpm:4", [0], [WHO] * 4)
    np.testing.assert_array_equal(same, sampler.sample("ddpm:4", [0], WHO))
    changed = page.changing(sampler, "ddpm:4", [0], [WHO] * 3 + [{"class": [2]}])
    *_, before, last = sampler.steps("ddpm:4", [0], WHO)
    expected = sampler.sample(tail(sampler.compile("ddpm:4"), 3), [0], {"class": [2]}, given={"row0": before.after[0]})
    np.testing.assert_array_equal(changed, expected)
    assert (changed != same).any() and last.index == 3


def test_what_a_step_saves_rolls_over_to_the_next(page, sampler: Sampler) -> None:
    """Rewards of tries in the order of their first evaluation. Of two starts the second continues. Of three tries the
    second continues, although the start was better. Of its tries the second is better than the start, not the first.
    All four that are left are used at the end.
    """
    known, (counted, calls) = {}, watch_calls(sampler)
    rewards = iter([-0.5, 0.0, -1.0, -0.3, -1.2, -0.2, 0.5, 0.7, 0.6, 0.9, 0.1])

    def reward(x0):
        if x0.tobytes() not in known:
            known[x0.tobytes()] = next(rewards)
        return known[x0.tobytes()]

    made = page.rollover(counted, sampler.compile("ddpm:4"), reward, 0, WHO, starts=2)
    times = [time for _, time in calls]
    assert [times.count(each) for each in dict.fromkeys(times)] == [2, 3, 2, 4]
    assert reward(made) == 0.9
