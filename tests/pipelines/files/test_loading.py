"""Networks of components, with their weights."""

import json
from pathlib import Path

import pytest
import torch

from fewstep.pipelines.files.loading import load_component, outline_network, read_network_config
from tests.refusals import refuses


def test_buffers_of_a_network_in_half_precision_are_not_rounded(tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2Model

    widths = {"hidden_size": 72, "intermediate_size": 16, "head_dim": 8}
    config = Gemma2Config(vocab_size=8, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, **widths)
    Gemma2Model(config).bfloat16().save_pretrained(tmp_path)
    network = load_component(tmp_path, Gemma2Model)
    assert network.get_parameter("embed_tokens.weight").dtype == torch.bfloat16
    torch.testing.assert_close(network.get_buffer("embed_tokens.embed_scale"), torch.tensor(72**0.5))


def test_an_encoder_alone_has_the_part_of_its_whole_models_config(tmp_path: Path) -> None:
    """As the encoder of PRX, which is that of T5Gemma."""
    gemma = pytest.importorskip("transformers.models.t5gemma")
    config = gemma.T5GemmaConfig(encoder=gemma.T5GemmaModuleConfig(hidden_size=8, num_hidden_layers=1))
    config.save_pretrained(tmp_path)
    encoder, model = gemma.modeling_t5gemma.T5GemmaEncoder, gemma.T5GemmaModel
    assert read_network_config(tmp_path, encoder).hidden_size == 8
    assert isinstance(read_network_config(tmp_path, model), gemma.T5GemmaConfig)


def test_a_config_that_describes_no_network_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel", "block_out_channels": [8]}))
    with refuses((f"cannot load {tmp_path}", "down_block_types")):
        outline_network(tmp_path)
