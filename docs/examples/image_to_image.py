"""Start from a given picture instead of noise: the sampler adds some noise to it, and removes the noise again.

    python docs/examples/image_to_image.py BUNDLE out.npy

The bundle can be any that samples images with labels, such as that of `fewstep demo`. The given picture is itself a
sample with the first label, and the resulting samples have the second label. With a larger strength, they keep less of
the given picture.
"""

import sys

import numpy as np

from fewstep.runtime import UserError, load

PLAN = "dpmpp_2m:20"
STRENGTHS = (0.3, 0.6, 0.9)


def main(bundle: str, output: str) -> None:
    with load(bundle) as sampler:
        labelled = [each for each in sampler.bundle.manifest.conditions if len(each.labels) > 1]
        if len(labelled) != 1 or len(sampler.bundle.manifest.conditions) != 1:
            raise UserError(
                f"{bundle} does not sample images with labels", "give one that does, such as that of `fewstep demo`"
            )
        (label,) = labelled
        first, second = label.labels[:2]
        given = sampler.sample(PLAN, seeds=[0], condition={label.name: [first]})
        rows = [given]
        for strength in STRENGTHS:
            made = sampler.sample(
                PLAN, seeds=[1], condition={label.name: [second]}, given={"image": given}, strength=strength
            )
            kept = np.corrcoef(made.ravel(), given.ravel())[0, 1]
            print(f"strength {strength}: a {second} that has a correlation of {kept:.2f} with the {first} given")
            rows.append(made)
    np.save(output, np.concatenate(rows))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: python docs/examples/image_to_image.py BUNDLE out.npy")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"image_to_image: {error}")
