"""`fewstep run --size`, and what it says of sizes that cannot be."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.cli.conditions import parse_sizes
from fewstep.cli.run_options import RunOptions
from fewstep.cli.verbs.run import run
from fewstep.runtime import UserError, load
from tests.free_bundle import free


def options(folder: Path, bundle: Path, height: int, *size: str) -> RunOptions:
    np.save(folder / "picture.npy", np.zeros((1, 2 * height, 8), np.float32))
    condition = ("class=bag", f"picture=@{folder / 'picture.npy'}")
    return RunOptions(bundle, "ddim:2", samples=2, condition=condition, size=size, output=folder / "x.npy")


def test_samples_have_the_sizes_that_were_asked_for(tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = free(tiny_bundle)
    asked = options(tmp_path, bundle, 6, "height=6", "width=8")
    x, plan = run(asked)
    picture = np.zeros((2, 1, 12, 8), np.float32)
    sampler = load(bundle).at(height=6, width=8)
    expected = sampler.sample(plan, [0, 1], {"class": ["bag"] * 2, "picture": picture})
    assert np.array_equal(x, expected) and np.array_equal(np.load(asked.output), expected)


def test_sizes_are_written_as_conditions_are() -> None:
    assert parse_sizes(("height=96", "width=64")) == {"height": 96, "width": 64}
    for text in ("height", "height=", "=4", "height=-4", "height=4.5", "height=a"):
        with pytest.raises(UserError, match="is not NAME=NUMBER; write it as --size height=96"):
            parse_sizes((text,))


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (("height=99999999999",), "size 'height=99999999999' is too large; give at most 16777216"),
        (("height=" + "9" * 5000,), "99' is too large; give at most 16777216"),
        (("height=8", "width=8", "height=9"), "size 'height' is given twice; leave one of them out"),
    ],
)
def test_a_size_too_large_or_given_twice_is_told(texts: tuple[str, ...], said: str) -> None:
    with pytest.raises(UserError) as caught:
        parse_sizes(texts)
    assert str(caught.value).endswith(said)


@pytest.mark.parametrize(
    "size, said",
    [
        ("height", "size 'height' is not NAME=NUMBER; write it as --size height=96"),
        ("height=7", "height 7 is no multiple of 2; give height 2 to 12 in steps of 2"),
        ("depth=2", "unknown size 'depth'; it has height 2 to 12 in steps of 2, width 4 to 8 in steps of 4"),
    ],
)
def test_a_size_that_cannot_be_is_one_line(tiny_bundle: Path, tmp_path: Path, size: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        run(options(tmp_path, free(tiny_bundle), 4, size))
    assert str(caught.value) == said
