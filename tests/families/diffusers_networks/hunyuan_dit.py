"""HunyuanDiT (Li et al. 2024): skips between blocks, rotary embeddings, texts of two encoders."""

from pathlib import Path
from typing import Any

from tests.families.tiny import randomize
from tests.recorded_pipelines.components import write
from tests.tiny_pipelines import WITHOUT_CHECKER, t5, t5_tokenizer

NAME = "HunyuanDiT2DModel (diffusers folder)"
PLAN = "scheduler:2"
GUIDANCE = 1.0  # otherwise a calibrated body has the weight of its pipeline
NO = {"int8-tensorrt": "int8 is not worth its loss"}


def make(folder: Path) -> dict[str, Any]:
    from diffusers import DDIMScheduler, HunyuanDiT2DModel
    from transformers import BertConfig, BertModel, BertTokenizer

    network = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=8,
        hidden_size=16,
        num_layers=2,
        cross_attention_dim=8,
        cross_attention_dim_t5=16,
        pooled_projection_dim=8,
        text_len=77,
        text_len_t5=256,
    )
    scheduler = DDIMScheduler(prediction_type="v_prediction", beta_schedule="scaled_linear", clip_sample=False)
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "dog", ",")
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    texts = {
        "text_encoder": randomize(BertModel(BertConfig(vocab_size=len(words), **sizes))),
        "tokenizer": BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=77),
        "text_encoder_2": t5(16),
        "tokenizer_2": t5_tokenizer(256),
    }
    parts = {"transformer": randomize(network), "scheduler": scheduler, "vae": None, **WITHOUT_CHECKER}
    home = write(folder / "model", "HunyuanDiTPipeline", **parts, **texts)
    return {"source": str(home), "call": ("height=64", "width=64", "use_resolution_binning=false")}
