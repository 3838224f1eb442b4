"""Companions: the networks of a bundle besides its denoiser, such as a text encoder or an autoencoder."""

from typing import ClassVar, Protocol

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.graph_entry import GraphEntry, Role, TensorEntry
from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind

LENGTH_LIMIT = 2**16  # maximum number of ids of one prompt
IMAGE_LIMIT = 2**28  # maximum number of elements of one image


class Tokens(Strict, frozen=True, omit_defaults=True):
    """An input of the text encoder, int64 [batch, length], and the tokenizer that converts a prompt to its ids.

    The tokenizer adds the start and end ids, and `pad` fills the rest. `mask` names an input of the same shape that is
    1 for ids of the prompt and 0 for padding. `replaced` maps a token of several embeddings, such as "<cat>", to the
    text that replaces it in prompts, "<cat> <cat>_1".
    """

    input: str
    tokenizer: str  # JSON of the library `tokenizers`
    length: int
    pad: int
    mask: str | None = None
    replaced: dict[str, str] = {}


class StateWords(Strict, frozen=True):
    """A numeric observation that is written into a prompt as words.

    Each value becomes one word: the index of the bin that contains scale * value + shift, among `bins` bins from -1 to
    1.
    """

    observation: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    bins: int


class PromptForm(Strict, frozen=True, omit_defaults=True):
    """The template of a prompt for a task.

    In the template, `{task}` is the task without its final line end, and `{state}` is the state. With `tidied`,
    underscores and line ends in the task become spaces, and surrounding spaces are removed.
    """

    template: str
    tidied: bool = False
    state: StateWords | None = None


class TextEncoderEntry(Kind, frozen=True, omit_defaults=True):
    """A text encoder. Its graph takes token ids, and returns conditions of the denoiser under the conditions' names."""

    EXPERTS: ClassVar = "without"

    graph: GraphEntry
    tokens: tuple[Tokens, ...]
    form: PromptForm | None = None

    def problem(self, of: DescriptionProtocol) -> str | None:
        wanted: list[TensorEntry] = []
        for index, tokens in enumerate(self.tokens):
            if not 1 <= tokens.length <= LENGTH_LIMIT or tokens.pad < 0:
                return f"tokens[{index}]: {tokens.length} ids, padded with {tokens.pad}"
            wanted.append(TensorEntry(tokens.input, "ids", ("batch", tokens.length), "int64"))
            if tokens.mask is not None:
                wanted.append(TensorEntry(tokens.mask, "mask", ("batch", tokens.length), "int64"))
        if sorted(map(str, wanted)) != sorted(map(str, self.graph.inputs)) or not wanted:
            return "the inputs of its graph are not those that the tokenizers return"
        if not self.graph.outputs:
            return "its graph has no outputs"
        takes = [TensorEntry(each.name, "condition", ("batch", *each.shape), each.dtype) for each in of.conditions]
        other = next((each.name for each in self.graph.outputs if each not in takes), None)
        return None if other is None else f"the denoiser takes no condition {other!r} of that shape and type"

    def companions(self) -> dict[str, GraphEntry]:
        return {"text encoder": self.graph}

    def files(self) -> tuple[str, ...]:
        return tuple(each.tokenizer for each in self.tokens)


class AutoencoderEntry(Kind, frozen=True):
    """An autoencoder between images in [-1, 1] and x, the denoiser's latents. Its graphs include the scaling and the
    shift of latents.

    The encoder returns the mean of its distribution, so it is deterministic.
    """

    EXPERTS: ClassVar = "without"

    decoder: GraphEntry
    encoder: GraphEntry | None = None

    def problem(self, of: DescriptionProtocol) -> str | None:
        """Return what is wrong with graphs that should convert between x and an image, as text, or None if nothing
        is."""
        x, image = ("batch", *of.x_shape), _single_shape(self.decoder.outputs, "image")
        if image is None or len(image) != 4 or not _is_size(image[1:]):
            return "its decoder returns no image [batch, channels, height, width]"
        if _single_shape(self.decoder.inputs, "latent") != x:
            return f"its decoder does not take latents {list(x)}"
        encoder = self.encoder
        if encoder is not None and (
            _single_shape(encoder.inputs, "image"),
            _single_shape(encoder.outputs, "latent"),
        ) != (image, x):
            return "its encoder does not take the decoder's images and return its latents"
        return None

    def companions(self) -> dict[str, GraphEntry]:
        decoder = {"decoder of latents": self.decoder}
        return decoder if self.encoder is None else decoder | {"encoder of images": self.encoder}


class ImageFacts(Protocol):
    """The properties of a denoiser that determine the shape of the images that it samples."""

    @property
    def x_shape(self) -> tuple[int, ...]: ...

    @property
    def autoencoder(self) -> AutoencoderEntry | None: ...


def image_shape(manifest: ImageFacts) -> tuple[int, ...]:
    """Return the shape of a sample's image. Without an autoencoder it is the shape of x."""
    if manifest.autoencoder is None:
        return manifest.x_shape
    return tuple(int(size) for size in manifest.autoencoder.decoder.outputs[0].shape[1:])


def _single_shape(tensors: tuple[TensorEntry, ...], role: Role) -> tuple[int | str, ...] | None:
    """Return the shape of the only tensor if it has this role and is float32, else None."""
    fits = len(tensors) == 1 and (tensors[0].role, tensors[0].dtype, tensors[0].shape[:1]) == (
        role,
        "float32",
        ("batch",),
    )
    return tensors[0].shape if fits else None


def _is_size(sizes: tuple[int | str, ...]) -> bool:
    elements = 1
    for size in sizes:
        if not isinstance(size, int) or size < 1:
            return False
        elements *= size
    return elements <= IMAGE_LIMIT
