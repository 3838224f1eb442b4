"""Sample sound and write .wav files, with numpy and an inference engine, and without torch.

    python docs/examples/sound.py BUNDLE FOLDER [PLAN]

The bundle's x is a spectrogram, such as that of zoo/sound.py. Integer conditions take their values in turns.
"""

import sys
from pathlib import Path

import numpy as np
from enhance import write_recording

from fewstep.runtime import UserError, load
from fewstep.runtime.spectrogram import decode, sample_count

COUNT = 8  # number of files


def main(bundle: str, folder: str, plan: str = "dpmpp_2m:20") -> None:
    with load(bundle) as sampler:
        manifest = sampler.bundle.manifest
        sound = manifest.spectrogram
        if sound is None:
            raise UserError(f"{bundle} does not sample sound", "give a bundle whose spec has a spectrogram")
        seeds = range(COUNT)
        condition = {
            each.name: np.array([int(each.low + seed % (each.high - each.low + 1)) for seed in seeds])
            for each in manifest.conditions
            if each.low is not None and each.high is not None and each.dtype.startswith("int")
        }
        x = sampler.sample(plan, seeds, condition)
        waves = decode(sound, x, sample_count(sound, x.shape[-1]))
    Path(folder).mkdir(parents=True, exist_ok=True)
    for seed, wave in zip(seeds, waves, strict=True):
        write_recording(str(Path(folder) / f"{seed}.wav"), wave, sound.rate)
    print(f"{len(waves)} files in {folder}, {waves.shape[1] / sound.rate:.2f} s each")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: python docs/examples/sound.py BUNDLE FOLDER [PLAN]")
    try:
        main(*sys.argv[1:])
    except (OSError, UserError) as error:
        sys.exit(f"sound: {error}")
