"""The autoencoder of a bundle: converts images to latents, and latents to images, a video or sound.

    autoencoder = load_autoencoder("bundle")
    images = autoencoder.decode(sampler.sample(...))

Images are float32 [N, channels, height, width] in [-1, 1], videos [N, frames, channels, height, width], and sound is
[N, channels, samples]. Latents are samples [N, *x_shape] as the sampler returns them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import Float32, as_finite, as_model_range
from fewstep.runtime.backends import CompanionEngine, LoadedGraph
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bands.decoder import load_decoder
from fewstep.runtime.bundle.manifest import AutoencoderEntry as Described
from fewstep.runtime.bundle.manifest import GraphEntry, Role, Size
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.kinds.companions import DECODER, ENCODER, image_shape
from fewstep.runtime.kinds.sizes import Dimension, describe_sizes, infer_sizes, resolve_dimension, sizes_in_range


@dataclass(frozen=True, repr=False)
class Autoencoder:
    """A loaded autoencoder, as `load_autoencoder` returns it. Any number of threads may share it. If it has the free
    sizes of x, it takes latents and images of all sizes in their ranges.

    A batch runs sample by sample, because the activations of one image take as much memory as many latents. A decoder
    of large images runs in bands of rows (`fewstep.runtime.bands`).
    """

    bundle: Bundle
    described: Described
    decoder: LoadedGraph
    encoder: LoadedGraph | None

    def __repr__(self) -> str:
        return f"<Autoencoder of {self.bundle.path}>"

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image, at the sizes of x of its bundle."""
        return image_shape(self.bundle.manifest)

    def decode(self, latents: ArrayLike, conditions: Mapping[str, ArrayLike] | None = None) -> Float32:
        """Decode latents [N, ...] of the decoder's shape to images, or else a video or sound. Their values may exceed
        [-1, 1] slightly. `conditions`: see `decode_all`."""
        return next(iter(self.decode_all(latents, conditions).values()))

    def decode_all(self, latents: ArrayLike, conditions: Mapping[str, ArrayLike] | None = None) -> dict[Role, Float32]:
        """Decode latents [N, ...] to all that the decoder returns, by "image", "video" and "sound". A decoder may
        return a video with its sound. It may take `conditions` [N, ...] of the samples too, such as a first frame;
        others are ignored."""
        return self._run(self.decoder, self.described.decoder, "latents", latents, conditions or {})

    def encode(self, images: ArrayLike) -> Float32:
        """Encode images in [-1, 1] to latents: the mean of the encoder's distribution, which is deterministic."""
        if self.encoder is None or self.described.encoder is None:
            lacks, fix = "the bundle has none", "load the autoencoder of a bundle that has an encoder"
            if self.described.encoder is not None:
                lacks, fix = "it was left out", "load_autoencoder(BUNDLE), without encoder=False"
            raise UserError(f"no image encoder is loaded: {lacks}", fix)
        return self._run(self.encoder, self.described.encoder, "images", images)["latent"]

    def _run(
        self,
        session: LoadedGraph,
        graph: GraphEntry,
        what: str,
        given: ArrayLike,
        conditions: Mapping[str, ArrayLike] = MappingProxyType({}),
    ) -> dict[Role, Float32]:
        """Return a graph's outputs [N, ...] by their roles for N values, run one at a time."""
        taken, *others = graph.inputs
        values, sizes = _check_values(what, given, taken.shape[1:], self.bundle.manifest.sizes)
        feeds = {taken.name: values}
        for other in others:
            label = f"rows of the condition {other.name!r}"
            feeds[other.name], _ = _check_values(label, conditions.get(other.name, ()), other.shape[1:], ())
            if len(feeds[other.name]) != len(values):
                what = f"{len(feeds[other.name])} {label} are given for {len(values)} samples"
                raise UserError(what, "give the decoder one for each sample")
        results = BatchSplitter(session, 1)(feeds)
        for output in graph.outputs:
            shape = (len(values), *(resolve_dimension(size, sizes) for size in output.shape[1:]))
            if results[output.name].shape != shape:
                what = f"{graph.file} does not return the shape that the manifest describes"
                raise UserError(what, self.bundle.export_again)
        return {output.role: results[output.name] for output in graph.outputs}


def load_autoencoder(
    bundle: Bundle | Path | str,
    threads: int = 0,
    encoder: bool = True,
    in_bands: bool = False,
    engine: CompanionEngine | None = None,
) -> Autoencoder:
    """Load the autoencoder of a bundle on the CPU. Raises UserError if the bundle has none.

    Args:
        bundle: the bundle, or its path. A body may have its own autoencoder: give the `bundle` of a sampler, or
            `open_bundle(path).with_graphs_of(body)`.
        threads: threads per run; 0 means one per physical core.
        encoder: also load the encoder, if there is one, for image-to-image.
        in_bands: decode in bands of rows whenever the decoder can, to take little memory. By default only decoders of
            large images do that are not in int8: those take as long in bands.
        engine: an inference engine with its own threads, such as `OpenVino()`. It runs the decoder as one graph. None
            is ONNX Runtime.
    """
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    described = bundle.manifest.autoencoder
    if described is None:
        raise UserError(f"{bundle.path} has no autoencoder", "export a folder that has vae/, or use x itself")
    has_encoder = encoder and described.encoder is not None
    if engine is None:
        decoder = load_decoder(bundle, described.decoder, threads, in_bands)
    else:
        decoder = engine.load_companion(bundle, DECODER)
    encode = (engine or OnnxRuntime(threads)).load_companion(bundle, ENCODER) if has_encoder else None
    return Autoencoder(bundle, described, decoder, encode)


def _check_values(
    what: str, values: ArrayLike, shape: Sequence[Dimension], axes: Sequence[Size]
) -> tuple[Float32, dict[str, int]]:
    """Return the values as float32 [N, *shape], and their free sizes. Raises UserError unless N is at least 1, all are
    finite and the sizes are in their ranges."""
    free = infer_sizes(shape, [1] * len(shape))
    ranges = describe_sizes([axis for axis in axes if axis.name in free])
    fix = f"give finite numbers [N, {', '.join(map(str, shape))}]{ranges and f' with {ranges}'}"
    array = np.ascontiguousarray(as_finite(as_model_range(values, what, fix), what, fix))
    sizes = sizes_in_range(shape, array.shape[1:], axes)
    if sizes is None or not len(array):
        raise UserError(f"{what} have the shape {list(array.shape)}", fix)
    return array, sizes
