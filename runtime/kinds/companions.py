"""Companions are a bundle's networks next to its denoiser: a text encoder, an autoencoder."""

from typing import TYPE_CHECKING, ClassVar

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.graph_entry import GraphEntry, Role, TensorEntry
from fewstep.runtime.kinds.kind import Kind, kinds

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description, Manifest

LENGTH_LIMIT = 2**16  # ids of one prompt
IMAGE_LIMIT = 2**28  # elements of one image


class Tokens(Strict, frozen=True):
    """An input of the text encoder, int64 [batch, length], and how a prompt becomes its token ids.

    The tokenizer adds the ids of start and end itself, and `pad` fills the rest. `mask` names an input of the same
    shape that is 1 where an id is the prompt's, and 0 behind it.
    """

    input: str
    tokenizer: str  # JSON of the library `tokenizers`
    length: int
    pad: int
    mask: str | None = None


class StateWords(Strict, frozen=True):
    """An observation of numbers that a prompt holds as words: scale * value + shift, in one of `bins` from -1 to 1."""

    observation: str
    scale: tuple[float, ...]
    shift: tuple[float, ...]
    bins: int


class PromptForm(Strict, frozen=True, omit_defaults=True):
    """The form of a prompt that a task is put into. `{task}` of the template is the task without a line end behind it,
    and `{state}` the state. `tidied`: underscores and line ends in the task are spaces, and none are around it."""

    template: str
    tidied: bool = False
    state: StateWords | None = None


class TextEncoderEntry(Kind, frozen=True, omit_defaults=True):
    """Prompts to conditions: the graph takes token ids, and returns conditions of the denoiser under their names."""

    EXPERTS: ClassVar = "without"

    graph: GraphEntry
    tokens: tuple[Tokens, ...]
    form: PromptForm | None = None

    def problem(self, of: "Description") -> str | None:
        wanted: list[TensorEntry] = []
        for index, tokens in enumerate(self.tokens):
            if not 1 <= tokens.length <= LENGTH_LIMIT or tokens.pad < 0:
                return f"tokens[{index}]: {tokens.length} ids, the padding being {tokens.pad}"
            wanted.append(TensorEntry(tokens.input, "ids", ("batch", tokens.length), "int64"))
            if tokens.mask is not None:
                wanted.append(TensorEntry(tokens.mask, "mask", ("batch", tokens.length), "int64"))
        if sorted(map(str, wanted)) != sorted(map(str, self.graph.inputs)) or not wanted:
            return "the inputs of its graph are not what the tokenizers make"
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
    """Between images in [-1, 1] and x, the latents as the denoiser has them: scales and shifts are in the graphs.

    The encoder gives the mean of its distribution: the same latents each time.
    """

    EXPERTS: ClassVar = "without"

    decoder: GraphEntry
    encoder: GraphEntry | None = None

    def problem(self, of: "Description") -> str | None:
        """One side of each graph is x, the other one an image."""
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
            return "its encoder is not the other way of the decoder"
        return None

    def companions(self) -> dict[str, GraphEntry]:
        decoder = {"decoder of latents": self.decoder}
        return decoder if self.encoder is None else decoder | {"encoder of images": self.encoder}


def companions(manifest: "Manifest") -> dict[str, GraphEntry]:
    """The graphs of companions, by what they are called."""
    return {name: graph for _, kind in kinds(manifest) for name, graph in kind.companions().items()}


def image_shape(manifest: "Manifest") -> tuple[int, ...]:
    """The shape of the image of a sample: x's own, where no autoencoder makes an image of it."""
    if manifest.autoencoder is None:
        return manifest.x_shape
    return tuple(int(size) for size in manifest.autoencoder.decoder.outputs[0].shape[1:])


def _single_shape(tensors: tuple[TensorEntry, ...], role: Role) -> tuple[int | str, ...] | None:
    """The shape of the one tensor that there is, if it has that role and is float32."""
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
