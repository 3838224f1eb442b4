"""The components of diffusers' tests get what published pipelines have and the tests leave out."""

from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.pipelines.dummy_components import _complete_configs, _needs_more


class HunyuanDiTPipeline:
    """A pipeline whose rotary positions are those of an autoencoder that divides sizes by 8."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}

    def register_modules(self, **modules: Any) -> None:
        self.components.update(modules)


def test_an_autoencoder_has_the_factor_that_its_pipeline_assumes() -> None:
    pytest.importorskip("diffusers")
    pipeline = HunyuanDiTPipeline()
    _complete_configs(pipeline)
    assert 2 ** (len(pipeline.components["vae"].config.block_out_channels) - 1) == 8


class StableDiffusionDepth2ImgPipeline:
    """A pipeline whose feature extractor resizes images for its depth estimator."""

    def __init__(self) -> None:
        self.components: dict[str, Any] = {}
        self.depth_estimator = SimpleNamespace(config=SimpleNamespace(image_size=32))
        self.feature_extractor = SimpleNamespace(size={"height": 384, "width": 384})


def test_a_feature_extractor_has_the_size_of_its_depth_estimator() -> None:
    pytest.importorskip("diffusers")
    pipeline = StableDiffusionDepth2ImgPipeline()
    _complete_configs(pipeline)
    assert pipeline.feature_extractor.size == {"height": 32, "width": 32}


class SanaPAGPipeline(HunyuanDiTPipeline):
    """A pipeline whose test has a language model, whose logits are as wide as its texts."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import Gemma2Config, Gemma2ForCausalLM

        sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
        config = Gemma2Config(hidden_size=32, intermediate_size=64, vocab_size=300, **sizes)
        self.text_encoder = Gemma2ForCausalLM(config)
        self.transformer = SimpleNamespace(config=SimpleNamespace(caption_channels=8))


def test_a_text_encoder_has_the_width_of_its_network() -> None:
    pytest.importorskip("diffusers")
    pipeline = SanaPAGPipeline()
    _complete_configs(pipeline)
    encoder = pipeline.components["text_encoder"]
    assert type(encoder).__name__ == "Gemma2Model"
    assert (encoder.config.hidden_size, encoder.config.vocab_size) == (8, 300)


class Adapters:
    """The base of test classes, one for each kind of adapter."""

    def get_dummy_components(self, kind: str) -> dict[str, Any]:
        return {"adapter": kind}


class FullAdapter(Adapters):
    def get_dummy_components(self, kind: str = "full") -> dict[str, Any]:
        return super().get_dummy_components(kind)


def test_the_base_of_test_classes_makes_no_components() -> None:
    assert _needs_more(Adapters) and not _needs_more(FullAdapter)
