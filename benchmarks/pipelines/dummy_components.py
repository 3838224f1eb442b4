"""Write folders from the components that the tests of diffusers make, in a checkout of diffusers."""

import ast
import importlib.util
import inspect
import itertools
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

from benchmarks.pipelines.hub_replacements import replace_hub
from fewstep.pipelines.recording.failed_call import PERTURBATION
from fewstep.pipelines.recording.settings import GUIDANCES, PROMPT
from tests.tiny_pipelines import randomize  # before the checkout's package of the same name is imported

CHOSEN = ("num_inference_steps", "timesteps", "output_type", "return_dict", "generator", "strength")  # by the recorder
TOO_SHORT = ("max_text_length",)  # for a prompt of single characters after its template
TEXTS = ("prompt", "negative_prompt")
ARRAYS = ("embed", "hint")  # in the names of arguments that are arrays

TEXT_LENGTH, TOKENS = "max_sequence_length", 64  # of texts, where a test names none and the default is larger than:
MOST_TOKENS = 512  # also for texts with pictures, which are longer in single characters

SAMPLE_SIZE = 16
PICTURE = 224  # side of the pictures that these pipelines make for their image encoder:
FIXED_PICTURES = ("StableVideoDiffusionPipeline", "ShapEImg2ImgPipeline")
VISION_START = "<|vision_start|>"

PIXELS_8 = (  # their positions are for an autoencoder of factor 8
    *("HunyuanDiTPipeline", "HunyuanDiTPAGPipeline", "HunyuanDiTControlNetPipeline"),
)
LOGITS_AS_TEXT = ("SanaPAGPipeline",)  # tests that encode texts by logits, unlike published pipelines
STAGES, CHANNELS = 4, 32  # of such an autoencoder

UNUSED = (
    "parameterized",
    "requests_mock",
)  # packages that those tests import, and that making components does not need


@dataclass(frozen=True)
class DummyPipeline:
    """A pipeline class with the test class that makes its components."""

    name: str
    test: Any

    def write(self, folder: Path) -> dict[str, Any]:
        """Write the pipeline to a folder. Returns the settings of its call that are plain values, without its texts."""
        import torch

        test = self.test.__new__(self.test)
        module = sys.modules[self.test.pipeline_class.__module__]
        if importlib.util.find_spec("ftfy") is None:  # repairs texts; those of a recording need no repair
            vars(module).setdefault("ftfy", SimpleNamespace(fix_text=str))
        with replace_hub():
            torch.manual_seed(0)
            components = test.get_dummy_components()
            accepted = inspect.signature(self.test.pipeline_class.__init__).parameters
            if "safety_checker" in accepted:
                components["safety_checker"] = None
            pipeline = self.test.pipeline_class(**components)
            _shorten_template(pipeline)
            _fit_vocabulary(pipeline)
            _complete_configs(pipeline)
            for each in pipeline.components.values():
                if type(each).__module__.startswith("diffusers.models."):
                    randomize(each)  # some begin with zeros, and return zeros
                    _limit_weights(each)
            pipeline.save_pretrained(folder, safe_serialization=True)
            if (scheduler := getattr(pipeline, "scheduler", None)) is not None:  # one that its class makes is not saved
                scheduler.save_pretrained(folder / "scheduler")
            takes = inspect.signature(test.get_dummy_inputs).parameters
            inputs = test.get_dummy_inputs("cpu") if "device" in takes else test.get_dummy_inputs()
        call = inspect.signature(type(pipeline).__call__).parameters
        parameter = call.get(TEXT_LENGTH)
        is_long = parameter is not None and isinstance(parameter.default, int) and parameter.default > MOST_TOKENS
        inputs = _join_guidance(type(pipeline), inputs)
        short = {TEXT_LENGTH: TOKENS} if is_long else {}
        has_system = hasattr(pipeline, "system_message") or _reads_pictures(pipeline, inputs)
        enough = {TEXT_LENGTH: MOST_TOKENS} if parameter is not None and has_system else {}
        more = _read_object(inputs) | ({PERTURBATION: 0} if PERTURBATION in call else {})
        return {**short, **_plain_settings(inputs), **more, **enough, **_save_arrays(type(pipeline), inputs, folder)}


def _limit_weights(network: Any) -> None:
    """Bound the weights that diffusers does not initialize, such as the pad token of Lumina, which may be NaN."""
    import torch

    with torch.no_grad():
        for parameter in network.parameters():
            parameter.nan_to_num_(0.0).clamp_(-100, 100)


def _join_guidance(made: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call, whose further weights of guidance follow the first one, if they may be None and
    the test switched all of them off. A guided output has one weight for each branch."""
    takes = inspect.signature(made.__call__).parameters
    off = [each for each in GUIDANCES if _is_no_guidance(each, inputs.get(each))]
    others = off[1:] if off[:1] == [GUIDANCES[0]] else []
    return {**inputs, **{each: None for each in others if "None" in str(takes[each].annotation)}}


def _plain_settings(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call that are plain values, and that neither a recording nor the tests' speed chose."""
    return {
        name: value
        for name, value in inputs.items()
        if not name.startswith((*CHOSEN, *TOO_SHORT))
        and name not in TEXTS
        and _is_plain(value)
        and not _is_no_guidance(name, value)
    }


def _read_object(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the prompt of a call that is a JSON object."""
    with suppress(TypeError, ValueError):
        read = json.loads(inputs.get(PROMPT, ""))
        return {PROMPT: read} if isinstance(read, dict) else {}
    return {}


def _save_arrays(made: type, inputs: Mapping[str, Any], folder: Path) -> dict[str, str]:
    """Save the tensors that a call needs. Returns the values of --call for them."""
    import numpy as np
    import torch

    saved: dict[str, str] = {}
    for name, parameter in inspect.signature(made.__call__).parameters.items():
        if (
            parameter.default is parameter.empty
            and isinstance(inputs.get(name), torch.Tensor)
            and any(part in name for part in ARRAYS)
        ):
            np.save(folder / f"{name}.npy", inputs[name].numpy())
            saved[name] = f"@{folder / name}.npy"
    return saved


def _reads_pictures(pipeline: Any, inputs: Mapping[str, Any]) -> bool:
    """Return True for a pipeline whose texts contain images in its test, or a system prompt of a processor."""
    templates = [str(each) for name, each in vars(pipeline).items() if name.startswith("prompt_template")]
    if "image" in inputs:
        return hasattr(pipeline, "processor") or any(VISION_START in each for each in templates)
    return hasattr(pipeline, "processor") and not templates


def _shorten_template(pipeline: Any) -> None:
    """Let tokenizers of single characters read the text before a prompt as the number of tokens that the pipeline
    removes after encoding, as the tokenizer of its model does."""
    pieces: list[str] = []
    for before, start in _templates(pipeline):
        before = before.partition(VISION_START)[0]  # the tokens of a picture are not removed
        if before and isinstance(start, int) and start > 0:
            ends = [round(part * len(before) / start) for part in range(start + 1)]
            pieces += [before[first:last] for first, last in itertools.pairwise(ends)]
    for name in ("tokenizer", "processor"):
        component = getattr(pipeline, name, None)
        tokenizer = getattr(component, "tokenizer", component)
        if pieces and tokenizer is not None and hasattr(tokenizer, "add_tokens"):
            tokenizer.add_tokens(list(dict.fromkeys(pieces)))


def _templates(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Yield the texts before a prompt with the number of their tokens, as pipelines name them."""
    for name, templates in vars(pipeline).items():
        if not name.startswith("prompt_template") or not isinstance(templates, str | dict):
            continue
        starts = getattr(pipeline, f"{name}_start_idx", getattr(pipeline, "prompt_template_encode_start_idx", None))
        by_kind = templates if isinstance(templates, dict) else {"": templates}
        for kind, template in by_kind.items():
            if isinstance(template, str) and "{}" in template:
                yield template.partition("{}")[0], starts.get(kind) if isinstance(starts, dict) else starts
    start = getattr(pipeline, "prompt_template_encode_start_idx", None)
    yield getattr(pipeline, "prompt_template_encode_prefix", ""), start
    system = getattr(pipeline, "system_prompt", "")
    yield f"user: {system}" if isinstance(system, str) else "", getattr(pipeline, "user_prompt_begin_id", None)


def _fit_vocabulary(pipeline: Any) -> None:
    """Give text encoders the embeddings that their tokenizers of single characters need."""
    for name, each in pipeline.components.items():
        tokenizer = getattr(pipeline, name.replace("text_encoder", "tokenizer"), None)
        if not (name.startswith("text_encoder") and hasattr(each, "resize_token_embeddings")) or tokenizer is None:
            continue
        with suppress(NotImplementedError):  # of encoders without one table of embeddings
            if hasattr(tokenizer, "vocab") and each.get_input_embeddings().num_embeddings < len(tokenizer):
                each.resize_token_embeddings(len(tokenizer))


def _complete_configs(pipeline: Any) -> None:
    """Set what the configs of published pipelines have, and tests leave out: a size of x, and the prediction of a
    scheduler of a flow. An image encoder gets the size of images that the pipeline makes for it, a feature extractor
    that of its depth estimator, a text encoder the width of the network and the config of its whole model, and an
    autoencoder the factor that the pipeline assumes."""
    from diffusers import AutoencoderKL
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

    unet, scheduler = getattr(pipeline, "unet", None), getattr(pipeline, "scheduler", None)
    if unet is not None and unet.config.get("sample_size", 0) is None:
        unet.register_to_config(sample_size=SAMPLE_SIZE)
    if scheduler is not None and scheduler.config.get("use_flow_sigmas"):
        scheduler.register_to_config(prediction_type="flow_prediction")
    encoder = getattr(pipeline, "image_encoder", None)
    if type(pipeline).__name__ in FIXED_PICTURES and isinstance(
        encoder, CLIPVisionModel | CLIPVisionModelWithProjection
    ):
        config = type(encoder.config)(**{**encoder.config.to_dict(), "image_size": PICTURE, "patch_size": PICTURE // 4})
        pipeline.register_modules(image_encoder=type(encoder)(config).eval())
    if (estimator := getattr(pipeline, "depth_estimator", None)) is not None:
        side = estimator.config.image_size
        pipeline.feature_extractor.size = {"height": side, "width": side}
    for component in pipeline.components.values():  # an encoder of text and text, whose published config has both
        whole = getattr(type(component), "config_class", None)
        if whole is not None and not isinstance(component.config, whole) and "encoder" in whole.sub_configs:
            component.config = whole(encoder=component.config)
    if type(pipeline).__name__ in LOGITS_AS_TEXT:
        sizes = {**pipeline.text_encoder.config.to_dict(), "hidden_size": pipeline.transformer.config.caption_channels}
        model = type(pipeline.text_encoder.base_model)
        pipeline.register_modules(text_encoder=model(type(pipeline.text_encoder.config)(**sizes)).eval())
    if type(pipeline).__name__ in PIXELS_8:
        down, up = ("DownEncoderBlock2D",) * STAGES, ("UpDecoderBlock2D",) * STAGES
        channels = (CHANNELS,) * STAGES
        made: Any = AutoencoderKL(down_block_types=down, up_block_types=up, block_out_channels=channels)
        pipeline.register_modules(vae=made.eval())


def find_pipelines(checkout: Path, names: Mapping[str, Any] | list[str]) -> Iterator[DummyPipeline]:
    """Yield the pipelines of these names whose tests make components, one for each name."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    for name in UNUSED:
        if name not in sys.modules and importlib.util.find_spec(name) is None:
            sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout))
    for name in [each for each in sys.modules if each == "tests" or each.startswith("tests.")]:
        del sys.modules[name]  # ours; the checkout has a package of the same name
    found: set[str] = set()
    for file in sorted((checkout / "tests" / "pipelines").rglob("test_*.py")):
        if not any(name in names for name in _class_names(file)):
            continue
        try:
            module = importlib.import_module(".".join(file.relative_to(checkout).with_suffix("").parts))
        except Exception as error:  # a package of the tests is missing
            print(f"{file.name}: {error}", file=sys.stderr)
            continue
        for each in vars(module).values():
            if not inspect.isclass(each) or not {"pipeline_class", "get_dummy_components"} <= set(dir(each)):
                continue
            name = getattr(getattr(each, "pipeline_class", None), "__name__", "")
            if name in names and name not in found and not _needs_more(each):
                found.add(name)
                yield DummyPipeline(name, each)


def _needs_more(test: Any) -> bool:
    """Return True for the base of several test classes, whose components follow from an argument."""
    own, *others = inspect.signature(test.get_dummy_components).parameters.values()
    return any(each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD for each in others)


def _is_no_guidance(name: str, value: Any) -> bool:
    """Return True for a weight with which tests switch guidance off, to be faster."""
    return name in GUIDANCES and value == 1


def _is_plain(value: Any) -> bool:
    """Return True for numbers, texts, and lists and mappings of them."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def _class_names(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_bytes()))
    return {alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names}
