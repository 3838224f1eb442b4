"""The autoencoder of a bundle converts images to latents and latents to images.

    autoencoder = load_autoencoder("bundle")
    images = autoencoder.decode(sampler.sample(...))

Images are float32 [N, channels, height, width] in [-1, 1], latents [N, *x_shape] as the sampler has them.
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
    """The autoencoder of a bundle, loaded. Made by `load_autoencoder`; serves any number of threads.

    A batch is done one by one: at the size of images the activations of one fill the memory of many latents.
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
        """Images of latents [N, ...] in the decoder's own shape; their values may pass [-1, 1] by a little."""
        shape = tuple(map(int, self.described.decoder.inputs[0].shape[1:]))
        return _run_per_sample(self.decoder, self.described.decoder, _check_values("latents", latents, shape))

    def encode(self, images: ArrayLike) -> Float32:
        """Latents of images in [-1, 1]: the mean of what the encoder says, the same each time."""
        if self.encoder is None or self.described.encoder is None:
            lacks = "the bundle has none" if self.described.encoder is None else "it was left out"
            raise UserError(f"no encoder of images is loaded: {lacks}", "load_autoencoder(BUNDLE) of one that has it")
        return _run_per_sample(self.encoder, self.described.encoder, _check_values("images", images, self.image_shape))


def load_autoencoder(bundle: Bundle | Path | str, threads: int = 0, encoder: bool = True) -> Autoencoder:
    """The autoencoder of a bundle, on the CPU.

    Args:
        bundle: the bundle, or its path.
        threads: of one run; 0 means one per physical core.
        encoder: load the encoder too, where there is one: for image-to-image.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    described = bundle.manifest.autoencoder
    if described is None:
        raise UserError(f"{bundle.path} has no autoencoder", "export a folder that has vae/, or take x as it is")
    engine, wanted = OnnxRuntime(threads), described.encoder if encoder else None
    return Autoencoder(
        bundle,
        described,
        engine.load_graph(bundle, described.decoder),
        None if wanted is None else engine.load_graph(bundle, wanted),
    )


def _run_per_sample(session: Session, graph: GraphEntry, values: Float32) -> Float32:
    """The output of a graph for each of N values, [N, ...]."""
    (taken,), (output,) = graph.inputs, graph.outputs
    result = BatchSplitter(session, 1)({taken.name: values})[output.name]
    if result.shape != (len(values), *output.shape[1:]):
        raise UserError(f"{graph.file} is not what the manifest says", EXPORT_AGAIN)
    return result


def _check_values(what: str, values: ArrayLike, shape: tuple[int, ...]) -> Float32:
    """The values as float32 [N, *shape], at least one and all finite."""
    fix = f"give finite numbers [N, {', '.join(map(str, shape))}]"
    array = np.ascontiguousarray(as_finite(as_model_range(values, what, fix), what, fix))
    if array.shape[1:] != tuple(shape) or not len(array):
        raise UserError(f"{what} have the shape {list(array.shape)}", fix)
    return array
