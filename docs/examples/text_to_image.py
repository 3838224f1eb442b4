"""Sample pictures for prompts in Python, as `fewstep run --prompt` does.

    python docs/examples/text_to_image.py BUNDLE out.npy "a cat" "a dog"

The bundle is that of a pipeline with prompts: `fewstep export FOLDER -o BUNDLE`. The plan and the guidance suit Stable
Diffusion. Pictures are written as an array [N, 3, height, width] in [-1, 1], and all start from the same noise. Each
network is loaded when it is needed and released afterwards, since all together may not fit into memory.
"""

import sys

import numpy as np

from fewstep.runtime import UserError, load
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.text import load_text_encoder

PLAN = "dpmpp_2m:12"
GUIDANCE = 7.5
NEGATIVE = "blurry, low quality"


def main(bundle: str, output: str, *prompts: str) -> None:
    text = load_text_encoder(bundle)
    condition = text.encode(prompts)
    negative = text.encode_negative([NEGATIVE] * len(prompts))
    del text
    with load(bundle) as sampler:
        seeds = [0] * len(prompts)
        latents = sampler.sample(PLAN, seeds, condition, GUIDANCE, branches={"uncond": negative})
    images = np.clip(load_autoencoder(bundle, encoder=False).decode(latents), -1, 1)
    np.save(output, images)
    print(f"{len(images)} samples {list(images.shape[1:])}, from latents {list(latents.shape[1:])}")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: python docs/examples/text_to_image.py BUNDLE out.npy PROMPT ...")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"text_to_image: {error}")
