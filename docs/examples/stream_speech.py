"""Stream the spectrogram of a text in pieces: each begins with the last frames of the previous one, which are held.

    python docs/examples/stream_speech.py BUNDLE text.npz out.npy [OVERLAP] [PLAN] [FRAMES]

The bundle samples spectrograms whose last axis is free, and its text has the same length. text.npz has the conditions
of one sample, [1, *shape]. FRAMES is the length of a piece; without it, the least length of the bundle, but at least
32. Needs no torch. The printed error compares with one sample of the whole text, if it is not too long for one.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans import noise
from fewstep.plans.plan import Plan
from fewstep.plans.transforms.given_noise import use_given_noise
from fewstep.runtime import Hold, Sampler, UserError, load

USUAL = 32  # frames of a piece, if the bundle takes so few
AHEAD = 4  # last frames of a piece, which do not know what follows: the next piece samples them again
NEAR = 2  # frames on each side of a seam in which its error is measured
Array = NDArray[Any]


def sample_part(
    sampler: Sampler, plan: Plan, given: Mapping[str, Array], draw: Array, part: slice, hold: Hold | None = None
) -> Array:
    """Return some frames, [1, ..., frames], from the same frames of the noise and of the conditions that follow x."""
    follows = {entry.name for entry in sampler.bundle.manifest.conditions if entry.follows}
    condition = {name: value[..., part] if name in follows else value for name, value in given.items()}
    sized = sampler.with_options(**{sampler.bundle.manifest.sizes[0].name: part.stop - part.start})
    return sized.sample(plan, [0], condition, given={"noise": draw[..., part]}, hold=hold)


def stream(
    sampler: Sampler, plan: Plan, given: Mapping[str, Array], draw: Array, overlap: int, frames: int
) -> Iterator[Array]:
    """Yield the new frames of each piece of `frames`, as soon as they are sampled."""
    x, done, total = np.zeros_like(draw), 0, draw.shape[-1]
    while done < total:
        stop = min(total, max(frames, done + frames - overlap))
        part, ready = slice(max(0, stop - frames), stop), stop if stop == total else stop - AHEAD
        is_held = (np.arange(part.start, stop) < done).astype(np.float32)
        hold = Hold(x[..., part], is_held) if is_held.any() else None
        x[..., part] = sample_part(sampler, plan, given, draw, part, hold)
        yield x[..., done:ready]
        done = ready


def main(
    bundle: str, text_file: str, output: str, overlap: str = "16", plan_name: str = "euler:4", frames: str = ""
) -> None:
    given = dict(np.load(text_file))
    with load(bundle) as sampler:
        manifest = sampler.bundle.manifest
        follow = [condition.name for condition in manifest.conditions if condition.follows]
        if missing := [name for name in follow if name not in given]:
            raise UserError(f"{text_file} has no {', '.join(missing)}", "write it there, as an array [1, *shape]")
        total = next((given[name].shape[-1] for name in follow), None)
        if total is None or [size.axis for size in manifest.sizes] != [len(manifest.x_shape) - 1]:
            raise UserError(
                f"{bundle} has no text of the length of x", "free x's last axis, and let the text follow it"
            )
        (length,) = manifest.sizes
        frames = frames or str(max(USUAL, length.low))
        if not frames.isdecimal() or not length.takes(piece := int(frames)):
            raise UserError(f"FRAMES is {frames}", f"give {length.range}")
        if not overlap.isdecimal() or int(overlap) >= piece - AHEAD:
            raise UserError(f"OVERLAP is {overlap}", f"give 0 to {piece - AHEAD - 1} of the {piece} frames of a piece")
        plan = use_given_noise(sampler.compile(plan_name))
        draw = noise.normal_batch([0], 0, (*manifest.x_shape[:-1], total))
        pieces, started = list[Array](), time.perf_counter()
        for part in stream(sampler, plan, given, draw, int(overlap), piece):  # a program would play them
            print(f"{part.shape[-1]} frames after {time.perf_counter() - started:.2f} s")
            pieces.append(part)
        x = np.concatenate(pieces, -1)
        np.save(output, x)
        if length.takes(total):
            whole = sample_part(sampler, plan, given, draw, slice(0, total))
            print(describe_error(x, whole, np.cumsum([part.shape[-1] for part in pieces])[:-1]))
        else:
            print(f"not compared: one sample has {length.range}, and this text {total}")


def describe_error(x: Array, whole: Array, seams: NDArray[np.integer]) -> str:
    """Return the error of a streamed sample against one of the whole text, at the seams and in all frames."""
    error = np.sqrt(np.square(x - whole).mean(tuple(range(x.ndim - 1))) / np.square(whole).mean())
    at_seams = np.mean([error[seam - NEAR : seam + NEAR].mean() for seam in seams] or [0.0])
    return f"error {100 * at_seams:.1f} % at {len(seams)} seams, {100 * error.mean():.1f} % in all frames"


if __name__ == "__main__":
    if not 4 <= len(sys.argv) <= 7:
        sys.exit("usage: python docs/examples/stream_speech.py BUNDLE text.npz out.npy [OVERLAP] [PLAN] [FRAMES]")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"stream_speech: {error}")
