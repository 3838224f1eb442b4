"""The autoencoder of a bundle: converts images to latents and latents to images.

    autoencoder = load_autoencoder("bundle")
    images = autoencoder.decode(sampler.sample(...))

Images are float32 [N, channels, height, width] in [-1, 1]. Latents are samples [N, *x_shape] as the sampler returns
them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32, as_finite, as_model_range
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.bundle.manifest import AutoencoderEntry as Described
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle, open_bundle
from fewstep.runtime.kinds.companions import image_shape


@dataclass(frozen=True, repr=False)
class Autoencoder:
    """A loaded autoencoder, as `load_autoencoder` returns it. Any number of threads may share it.

    A batch runs sample by sample, because the activations of one image take as much memory as many latents.
    """

    bundle: Bundle
    described: Described
    decoder: Session
    encoder: Session | None

    def __repr__(self) -> str:
        return f"<Autoencoder of {self.bundle.path}>"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return image_shape(self.bundle.manifest)

    def decode(self, latents: ArrayLike) -> Float32:
        """Decode latents [N, ...] of the decoder's shape to images. Their values may exceed [-1, 1] slightly."""
        shape = tuple(map(int, self.described.decoder.inputs[0].shape[1:]))
        return _run_per_sample(self.decoder, self.described.decoder, _check_values("latents", latents, shape))

    def encode(self, images: ArrayLike) -> Float32:
        """Encode images in [-1, 1] to latents: the mean of the encoder's distribution, which is deterministic."""
        if self.encoder is None or self.described.encoder is None:
            lacks, fix = "the bundle has none", "load the autoencoder of a bundle that has an encoder"
            if self.described.encoder is not None:
                lacks, fix = "it was left out", "load_autoencoder(BUNDLE), without encoder=False"
            raise UserError(f"no image encoder is loaded: {lacks}", fix)
        return _run_per_sample(self.encoder, self.described.encoder, _check_values("images", images, self.image_shape))


def load_autoencoder(bundle: Bundle | Path | str, threads: int = 0, encoder: bool = True) -> Autoencoder:
    """Load the autoencoder of a bundle on the CPU. Raises UserError if the bundle has none.

    Args:
        bundle: the bundle, or its path.
        threads: threads per run; 0 means one per physical core.
        encoder: also load the encoder, if there is one, for image-to-image.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    described = bundle.manifest.autoencoder
    if described is None:
        raise UserError(f"{bundle.path} has no autoencoder", "export a folder that has vae/, or use x itself")
    engine, wanted = OnnxRuntime(threads), described.encoder if encoder else None
    return Autoencoder(
        bundle,
        described,
        engine.load_graph(bundle, described.decoder),
        None if wanted is None else engine.load_graph(bundle, wanted),
    )


def _run_per_sample(session: Session, graph: GraphEntry, values: Float32) -> Float32:
    """Return a graph's outputs [N, ...] for N values, run one at a time."""
    (taken,), (output,) = graph.inputs, graph.outputs
    result = BatchSplitter(session, 1)({taken.name: values})[output.name]
    if result.shape != (len(values), *output.shape[1:]):
        raise UserError(f"{graph.file} does not return the shape that the manifest describes", EXPORT_AGAIN)
    return result


def _check_values(what: str, values: ArrayLike, shape: tuple[int, ...]) -> Float32:
    """Return the values as float32 [N, *shape]. Raises UserError unless N is at least 1 and all are finite."""
    fix = f"give finite numbers [N, {', '.join(map(str, shape))}]"
    array = np.ascontiguousarray(as_finite(as_model_range(values, what, fix), what, fix))
    if array.shape[1:] != tuple(shape) or not len(array):
        raise UserError(f"{what} have the shape {list(array.shape)}", fix)
    return array
