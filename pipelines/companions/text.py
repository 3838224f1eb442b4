"""What the text encoders of all pipelines share: texts to compare them with, merged LoRA files, and the rules of
prompts that no tokenizer has."""

from collections.abc import Mapping, Sequence

from torch import nn

from fewstep.export.lora.merge import merge, refuse_added_doras
from fewstep.export.tracing.weights.stored_halves import restore_parameters
from fewstep.runtime.lora.file import Lora
from fewstep.runtime.lora.keys import Component

TRIED = (
    "",
    "a photograph of a cat",
    "two dogs, playing; an oil painting in the style of the 19th century, 4k!",
    "naïve",
)


def find_t5(model_types: Mapping[Component, object]) -> Component | None:
    """Return the component that is a T5, among text encoders with these `model_type`s of transformers. None if there is
    none or several."""
    candidates = [component for component, model_type in model_types.items() if model_type in ("t5", "umt5")]
    return candidates[0] if len(candidates) == 1 else None


def merge_loras(encoder: nn.Module, loras: Sequence[Lora], component: Component) -> nn.Module:
    """Merge the LoRA files that have layers of this encoder into it."""
    own = [lora for lora in loras if lora.layers(component)]
    if own:
        restore_parameters(encoder)
    refuse_added_doras(encoder, own, component)
    for lora in own:
        merge(encoder, lora, component)
    return encoder


def converts_prompts(pipeline: str) -> bool:
    """Return whether a pipeline replaces a token of textual inversion that has several embeddings by all of them. A
    class that diffusers does not have is taken for one that does."""
    import diffusers  # takes seconds, and --help does not need it

    made = getattr(diffusers, pipeline, None)
    return made is None or hasattr(made, "maybe_convert_prompt")
