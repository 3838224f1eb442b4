"""Process a stream of frames: first those of a file, then those of a source that does not wait.

    python docs/examples/stream.py BUNDLE film.npy out.npy

The bundle can be any that samples images, such as that of `fewstep demo`. film.npy contains frames [N, C, H, W] in
model range. The samples for the file are written to out.npy.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.literature.streams import SimilarityFilter, latest, stream
from fewstep.plans.guidance import Residual
from fewstep.runtime import UserError, load

PLAN, STRENGTH, RATE = "ddim:8", 0.5, 30  # frames per second


def main(bundle: str, film_file: str, output: str) -> None:
    film = np.load(film_file)
    with load(bundle) as sampler:
        condition = {each.name: np.zeros((1, *each.shape), each.dtype) for each in sampler.bundle.manifest.conditions}
        options: dict[str, Any] = {
            "plan": PLAN,
            "strength": STRENGTH,
            "condition": condition,
            "guidance": Residual(1.4),
        }
        frames = stream(sampler, **options)
        np.save(output, np.stack([out.sample for out in frames(film)]))  # all frames, in order
        print(f"file: {frames.stats()}")

        frames = stream(sampler, **options, similar=SimilarityFilter(0.98))
        for out in latest(frames, camera(film)):
            age = "new" if out.fresh else "as before"
            print(f"frame {out.index}: {age}, {1000 * out.latency_s:.0f} ms after it was seen")
        print(f"camera: {frames.stats()}")


def camera(film: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield the frames of the film at its rate, even if the previous ones were not taken."""
    for frame in film:
        time.sleep(1 / RATE)
        yield frame


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: python docs/examples/stream.py BUNDLE film.npy out.npy")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"stream: {error}")
