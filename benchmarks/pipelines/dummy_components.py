"""Write folders from the components that the tests of diffusers make, in a checkout of diffusers."""

import ast
import importlib.util
import inspect
import itertools
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
from fewstep.export.sources.diffusers.recording.settings import GUIDANCES
from tests.pipelines import randomized  # before the checkout's package of the same name is imported

CHOSEN = ("num_inference_steps", "output_type", "return_dict", "generator", "strength")  # by the recorder
TEXTS = ("prompt", "negative_prompt")

TEXT_LENGTH, TOKENS = "max_sequence_length", 64  # of texts, where a test names none and the default is larger than:
MOST_TOKENS = 512

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
            for each in pipeline.components.values():
                if type(each).__module__.startswith("diffusers.models."):
                    randomized(each)  # some begin with zeros, and return zeros
            pipeline.save_pretrained(folder, safe_serialization=True)
            takes = inspect.signature(test.get_dummy_inputs).parameters
            inputs = test.get_dummy_inputs("cpu") if "device" in takes else test.get_dummy_inputs()
        parameter = inspect.signature(type(pipeline).__call__).parameters.get(TEXT_LENGTH)
        is_long = parameter is not None and isinstance(parameter.default, int) and parameter.default > MOST_TOKENS
        short = {TEXT_LENGTH: TOKENS} if is_long else {}
        return short | {
            name: value
            for name, value in inputs.items()
            if not name.startswith(CHOSEN)
            and name not in TEXTS
            and _is_plain(value)
            and not _is_no_guidance(name, value)
        }


def _shorten_template(pipeline: Any) -> None:
    """Let a tokenizer of single characters read the text before a prompt as the number of tokens that the pipeline
    removes after encoding, as the tokenizer of its model does."""
    found = next((each for each in _templates(pipeline) if each[0] and isinstance(each[1], int)), None)
    if found is None:
        return
    before, start = found
    ends = [round(part * len(before) / start) for part in range(start + 1)]
    pieces = [before[first:last] for first, last in itertools.pairwise(ends)]
    pipeline.tokenizer.add_tokens(pieces)


def _templates(pipeline: Any) -> Iterator[tuple[str, Any]]:
    """Yield the texts before a prompt with the number of their tokens, as pipelines name them."""
    template = getattr(pipeline, "prompt_template_encode", None)
    start = getattr(pipeline, "prompt_template_encode_start_idx", None)
    yield template.partition("{}")[0] if isinstance(template, str) and "{}" in template else "", start
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


def find_pipelines(checkout: Path, names: Mapping[str, Any] | list[str]) -> Iterator[DummyPipeline]:
    """Yield the pipelines of these names whose tests make components, one for each name."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    for name in UNUSED:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = MagicMock()
    sys.path.insert(0, str(checkout))
    for name in [each for each in sys.modules if each == "tests" or each.startswith("tests.")]:
        del sys.modules[name]  # ours; the checkout has a package of the same name
    found: set[str] = set()
    for file in sorted((checkout / "tests" / "pipelines").rglob("test_*.py")):
        if not any(name in names for name in _named_classes(file)):
            continue
        try:
            module = importlib.import_module(".".join(file.relative_to(checkout).with_suffix("").parts))
        except Exception as error:  # a package of the tests is missing
            print(f"{file.name}: {error}", file=sys.stderr)
            continue
        for each in vars(module).values():
            if not inspect.isclass(each) or not {"pipeline_class", "get_dummy_components"} <= set(dir(each)):
                continue
            name = getattr(each.pipeline_class, "__name__", "")
            if name in names and name not in found:
                found.add(name)
                yield DummyPipeline(name, each)


def _is_no_guidance(name: str, value: Any) -> bool:
    """Return True for a weight with which tests switch guidance off, to be faster."""
    return name in GUIDANCES and value == 1


def _is_plain(value: Any) -> bool:
    """Return True for numbers, texts, and lists and mappings of them."""
    if isinstance(value, Mapping):
        return all(map(_is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str)


def _named_classes(file: Path) -> set[str]:
    tree = ast.walk(ast.parse(file.read_bytes()))
    return {alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names}
