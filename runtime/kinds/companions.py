"""Companions: the networks of a bundle besides its denoiser, such as a text encoder or an autoencoder."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar, Literal, Protocol, Self

from msgspec.structs import replace

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.graph_entry import GraphEntry, Role, TensorEntry
from fewstep.runtime.kinds.kind import DescriptionProtocol, FreeAxis, Kind
from fewstep.runtime.kinds.sizes import (
    default_sizes,
    dimension_problem,
    free_x_shape,
    longest_shape,
    parse_dimension,
    resolve_dimension,
)

TEXT_ENCODER, DECODER, ENCODER = "text encoder", "decoder of latents", "encoder of images"  # names of graphs
LENGTH_LIMIT = 2**16  # maximum number of ids of one prompt
IMAGE_LIMIT = 2**28  # maximum number of elements of one image
RATE_LIMIT = 10**6  # of frames or samples per second
OUTPUTS = (("image",), ("video",), ("sound",), ("video", "sound"))  # roles of what a decoder may return
AXES = {"image": 3, "video": 4, "sound": 2}  # of a sample

PlainCleaning = Literal["entities", "quotes", "unquoted", "spaces", "lower", "ends"]
CaptionCleaning = Literal["captions", "html captions"]
Cleaning = PlainCleaning | CaptionCleaning
ZerosForEmpty = Literal["never", "negative", "always"]


class Tokens(Strict, frozen=True, omit_defaults=True):
    """An input of the text encoder, int64 [batch, length], and the tokenizer that converts a prompt to its ids.

    The tokenizer adds the start and end ids, and `pad` fills the rest: after the text, or before it if `pads_first`.
    `mask` names an input of the same shape that is 1 for ids of the prompt and 0 for padding. `replaced` maps a token
    of several embeddings, such as "<cat>", to the text that replaces it in prompts, "<cat> <cat>_1".

    `cleaning` changes a prompt first, in this order: `entities` replaces those of HTML, such as &amp;, `quotes` makes
    curly quotes straight, `unquoted` replaces quotes but the apostrophe by spaces, `spaces` merges consecutive spaces,
    `lower` converts to lower case, and `ends` removes spaces at both ends. `captions` are the rules of DeepFloyd IF for
    captions instead, which remove addresses, codes and most punctuation, and `html captions` the same after removing
    tags, twice. The tokenizer reads it between the texts `before` and `after`, such as those of a chat template.
    `negative` has these two for negative prompts, if they have others, and `negative_cleaning` other changes of these.
    `empty` has the ids of an empty text, if the tokenizer does not make them. `picture` is the id whose places features
    of a picture take, and the number of these places: a prompt has none of its own.
    """

    input: str
    tokenizer: str  # JSON of the library `tokenizers`
    length: int
    pad: int
    mask: str | None = None
    replaced: dict[str, str] = {}
    before: str = ""
    after: str = ""
    cleaning: tuple[Cleaning, ...] = ()
    pads_first: bool = False
    negative: tuple[str, str] | None = None
    negative_cleaning: tuple[Cleaning, ...] | None = None
    empty: tuple[int, ...] | None = None
    picture: tuple[int, int] | None = None


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


class TextLength(Strict, frozen=True):
    """The length of a text as an axis of conditions, the free size `size`: the number of the prompt's ids in `input`,
    plus `more`, and at most the largest size. The graph returns conditions of the largest size, whose rest is cut."""

    size: str
    input: str
    more: int


class TextEncoderEntry(Kind, frozen=True, omit_defaults=True):
    """A text encoder. Its graph takes token ids, and returns conditions of the denoiser under the conditions' names.
    `zeros_for_empty`: whether the conditions of an empty prompt are zeros, whatever the graph returns: never, only as a
    negative prompt, or always. `lengths`: of its conditions whose length is that of the text. It may also take
    conditions that the denoiser does not use, such as features of a picture, under their names. `nothing` is then the
    negative prompt of a call that has none; without such conditions, its encoding is stored as null values.
    """

    EXPERTS: ClassVar = "without"

    graph: GraphEntry
    tokens: tuple[Tokens, ...]
    form: PromptForm | None = None
    zeros_for_empty: ZerosForEmpty = "never"
    lengths: tuple[TextLength, ...] = ()
    nothing: str | None = None

    @property
    def encoded(self) -> frozenset[str]:
        """The names of the conditions that a prompt becomes."""
        return frozenset(tensor.name for tensor in self.graph.outputs)

    @property
    def reads(self) -> tuple[str, ...]:
        """The names of the conditions that its graph takes besides token ids."""
        return tuple(tensor.name for tensor in self.graph.inputs if tensor.role == "condition")

    def problem(self, of: DescriptionProtocol) -> str | None:
        takes = [
            TensorEntry(condition.name, "condition", ("batch", *longest_shape(condition, of.sizes)), condition.dtype)
            for condition in of.conditions
        ]
        wanted = [tensor for tensor in takes if tensor.name in self.reads]
        for index, tokens in enumerate(self.tokens):
            if not 1 <= tokens.length <= LENGTH_LIMIT or tokens.pad < 0:
                return f"tokens[{index}]: {tokens.length} ids, padded with {tokens.pad}"
            if tokens.empty is not None and (len(tokens.empty) > tokens.length or min(tokens.empty, default=0) < 0):
                return f"tokens[{index}]: an empty text has the ids {list(tokens.empty)}"
            wanted.append(TensorEntry(tokens.input, "ids", ("batch", tokens.length), "int64"))
            if tokens.mask is not None:
                wanted.append(TensorEntry(tokens.mask, "mask", ("batch", tokens.length), "int64"))
        if sorted(map(str, wanted)) != sorted(map(str, self.graph.inputs)) or not wanted:
            return "the inputs of its graph are not those that the tokenizers return"
        if not self.graph.outputs:
            return "its graph has no outputs"
        known = {size.name for size in of.sizes if size.axis is None}, {tokens.input for tokens in self.tokens}
        if any(length.size not in known[0] or length.input not in known[1] for length in self.lengths):
            return "its lengths are of unknown sizes or inputs"
        other = next((port.name for port in self.graph.outputs if port not in takes), None)
        return None if other is None else f"the denoiser takes no condition {other!r} of that shape and type"

    def companions(self) -> dict[str, GraphEntry]:
        return {TEXT_ENCODER: self.graph}

    def with_companions(self, graphs: Mapping[str, GraphEntry]) -> Self:
        return replace(self, graph=graphs.get(TEXT_ENCODER, self.graph))

    def files(self) -> tuple[str, ...]:
        return tuple(token.tokenizer for token in self.tokens)


class AutoencoderEntry(Kind, frozen=True, omit_defaults=True):
    """An autoencoder between images in [-1, 1] and x, the denoiser's latents. Its graphs include the scaling and the
    shift of latents. Each has the free sizes of x, or its default sizes only.

    The encoder returns the mean of its distribution, so it is deterministic. A decoder may also return a video in [-1,
    1], [batch, frames, channels, height, width], and sound, [batch, channels, samples]. Its batch is free or 1. One of
    videos or sound may take conditions of the denoiser after the latents, such as a first frame.

    frame_rate, sample_rate: frames of the video and samples of the sound per second; None if unknown.
    """

    EXPERTS: ClassVar = "without"

    decoder: GraphEntry
    encoder: GraphEntry | None = None
    frame_rate: float | None = None
    sample_rate: int | None = None

    def problem(self, of: DescriptionProtocol) -> str | None:
        """Return what is wrong with graphs that should convert between x and an image, as text, or None if nothing
        is."""
        roles = tuple(output.role for output in self.decoder.outputs)
        axes = _free_axes(_sample_shape(self.decoder.inputs[:1], "latent"), of)
        shapes = [_usual_shape((output,), output.role, axes or (), of) for output in self.decoder.outputs]
        if roles not in OUTPUTS or any(
            shape is None or len(shape) != AXES[role] or prod(shape) > IMAGE_LIMIT
            for role, shape in zip(roles, shapes, strict=True)
        ):
            return "its decoder returns no image [batch, channels, height, width], no video and no sound"
        if axes is None:
            return f"its decoder does not take latents {list(of.x_shape)}"
        takes = {
            condition.name: TensorEntry(condition.name, "condition", (1, *condition.shape))
            for condition in of.conditions
        }
        others = self.decoder.inputs[1:]
        if any(graph != takes.get(graph.name) for graph in others) or (others and roles == ("image",)):
            return "its decoder takes other tensors besides latents"
        if self.encoder is not None:
            axes = _free_axes(_sample_shape(self.encoder.outputs, "latent"), of)
            image = None if axes is None else _usual_shape(self.encoder.inputs, "image", axes, of)
            if (roles, image) != (("image",), shapes[0]):
                return "its encoder does not take the decoder's images and return its latents"
        if any(rate is not None and not 0 < rate < RATE_LIMIT for rate in (self.frame_rate, self.sample_rate)):
            return f"it has {self.frame_rate} frames and {self.sample_rate} samples per second"
        return None

    def companions(self) -> dict[str, GraphEntry]:
        decoder = {DECODER: self.decoder}
        return decoder if self.encoder is None else decoder | {ENCODER: self.encoder}

    def with_companions(self, graphs: Mapping[str, GraphEntry]) -> Self:
        encoder = self.encoder and graphs.get(ENCODER, self.encoder)
        return replace(self, decoder=graphs.get(DECODER, self.decoder), encoder=encoder)


class ImageFacts(Protocol):
    """The properties of a denoiser that determine the shape of the images that it samples."""

    @property
    def x_shape(self) -> tuple[int, ...]: ...

    @property
    def sizes(self) -> Sequence[FreeAxis]: ...

    @property
    def autoencoder(self) -> AutoencoderEntry | None: ...


def image_shape(manifest: ImageFacts) -> tuple[int, ...]:
    """Return the shape of a sample's image, at the sizes of x. Without an autoencoder it is the shape of x."""
    if manifest.autoencoder is None:
        return manifest.x_shape
    sizes = default_sizes(manifest.x_shape, manifest.sizes)
    return tuple(resolve_dimension(size, sizes) for size in manifest.autoencoder.decoder.outputs[0].shape[1:])


def latent_size(manifest: ImageFacts, name: str, pixels: int) -> int | None:
    """Return the free size of x at which the decoder returns an axis of this many pixels, or frames; None if there is
    none in its range, or the decoder returns no axis of that size."""
    size = next((size for size in manifest.sizes if size.name == name), None)
    if manifest.autoencoder is None or size is None:
        return None
    sizes = range(size.low, size.high + 1, size.multiple)
    named = [axis for output in manifest.autoencoder.decoder.outputs for axis in output.shape if name in str(axis)]
    lengths = ((size, axis) for axis in named if parse_dimension(str(axis))[1] == (name,) for size in sizes)
    return next((each for each, axis in lengths if resolve_dimension(axis, {name: each}) == pixels), None)


def _sample_shape(tensors: tuple[TensorEntry, ...], role: Role) -> tuple[int | str, ...] | None:
    """Return the shape of a sample of the only tensor if it has this role and is float32, else None."""
    if len(tensors) != 1 or (tensors[0].role, tensors[0].dtype) != (role, "float32"):
        return None
    return tensors[0].shape[1:] if tensors[0].shape[:1] in (("batch",), (1,)) else None


def _free_axes(latents: tuple[int | str, ...] | None, of: DescriptionProtocol) -> tuple[FreeAxis, ...] | None:
    """Return the sizes that are free in a graph of these latents; None if they are not those of the denoiser."""
    if latents == of.x_shape:
        return ()
    return tuple(size for size in of.sizes if size.axis is not None) if latents == free_x_shape(of) else None


def _usual_shape(
    tensors: tuple[TensorEntry, ...], role: Role, axes: tuple[FreeAxis, ...], of: DescriptionProtocol
) -> tuple[int, ...] | None:
    """Return the shape of a sample of the only tensor at the default sizes. None if it has another role or type, or an
    axis that is no term of these sizes."""
    shape = _sample_shape(tensors, role)
    if shape is None or any(dimension_problem(size, axes) for size in shape):
        return None
    sizes = default_sizes(of.x_shape, axes)
    return tuple(resolve_dimension(size, sizes) for size in shape)
