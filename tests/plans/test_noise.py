import numpy as np
import pytest

from fewstep.plans import noise
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal, particle_normals, philox


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers that the authors of Philox publish with Random123
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_answers(counter, key, words):
    assert tuple(philox(np.array(counter, np.uint64)[:, None], key)[:, 0]) == words


def test_a_draw_is_fixed_by_seed_and_number_alone():
    assert np.array_equal(normal(7, 1, (2, 3)), normal(7, 1, (2, 3)))
    assert np.array_equal(normal(7, 1, (10,))[:6], normal(7, 1, (6,)))
    assert not np.array_equal(normal(7, 1, (6,)), normal(7, 2, (6,)))
    assert not np.array_equal(normal(7, 1, (6,)), normal(8, 1, (6,)))
    assert not np.array_equal(normal(7, 1, (6,)), normal(7 + 2**32, 1, (6,)))


def test_first_values_are_pinned():
    """Test vectors for other implementations: seed 0, draw 0; a seed above 32 bits, draw 3."""
    assert normal(0, 0, (5,)) == pytest.approx([0.9911377, -0.9246626, -0.61760896, -0.4820686, -0.15363823], abs=1e-7)
    assert normal(2**40 + 1, 3, (4,)) == pytest.approx([-0.43954358, -0.47504342, 1.0640838, 1.0932572], abs=1e-7)


@pytest.mark.parametrize(("samples", "shape"), [(1, (1,)), (3, (7,)), (5, (3, 32, 32)), (2, (3, 130, 130))])
def test_a_batch_has_the_noise_of_each_seed(samples, shape):
    """Also if only some of them are drawn at once, and if one has more numbers than that."""
    seeds = [0, 2**64 - 1, 2**40 + 1, 3, 4][:samples]
    made = noise.normal_batch(seeds, 2, shape)
    assert made.shape == (samples, *shape) and made.dtype == np.float32
    for seed, each in zip(seeds, made, strict=True):
        np.testing.assert_array_equal(each, normal(seed, 2, shape))


def test_moments_are_those_of_a_standard_normal():
    x = normal(123, 0, (1_000_000,)).astype(np.float64)
    assert x.mean() == pytest.approx(0, abs=4e-3)
    assert x.var() == pytest.approx(1, abs=6e-3)
    assert (x**3).mean() == pytest.approx(0, abs=2e-2)
    assert (x**4).mean() == pytest.approx(3, abs=5e-2)
    assert np.corrcoef(x[:-1], x[1:])[0, 1] == pytest.approx(0, abs=4e-3)


def test_a_seed_outside_64_bits_is_refused():
    with pytest.raises(UserError, match="seed -1"):
        normal(-1, 0, (4,))


def test_streams_share_no_counter(monkeypatch):
    """The fourth words of the particles of a large population, and of all other draws."""
    calls, rounds = [], noise._philox_rounds
    monkeypatch.setattr(
        noise, "_philox_rounds", lambda counter, key: calls.extend(counter[3].ravel().tolist()) or rounds(counter, key)
    )
    particle_normals(7, 0, (1,), 100_000)
    particles = set(calls)
    assert len(particles) == 100_000 and noise.NORMALS in particles
    others = [noise.CONDITIONS, noise.STEPS, noise.CHANCES]
    assert len(set(others)) == 3 and particles.isdisjoint(others)
    assert (noise.CONDITIONS, noise.STEPS) == (1, 2)  # pinned: calibrated bodies follow from them


def test_a_particle_s_noise_is_its_own():
    """Whatever the number of particles; the first has the noise of the seed alone."""
    made = particle_normals(7, 3, (5,), 4)
    np.testing.assert_array_equal(made[0], normal(7, 3, (5,)))
    np.testing.assert_array_equal(made[:2], particle_normals(7, 3, (5,), 2))
    assert len({each.tobytes() for each in made}) == 4
