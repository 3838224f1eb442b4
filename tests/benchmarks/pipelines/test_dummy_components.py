"""The components of diffusers' tests get what published pipelines have and the tests leave out."""

from typing import Any

import pytest

from benchmarks.pipelines.dummy_components import _complete_configs


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
