"""The names that layers of diffusers' transformers have in their original code, as tables.

A name maps to the layers that it stands for: if there are several, one weight of the original code has their outputs
concatenated. N is the number of a block, equal in both. The source is diffusers' conversion of checkpoints,
`loaders/single_file_utils.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Table = dict[str, tuple[str, ...] | str]

QKV = ("to_q", "to_k", "to_v")
ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
DOUBLE, SINGLE = "transformer_blocks.N", "single_transformer_blocks.N"
TIME_TEXT = "time_text_embed"


def _with_prefix(prefix: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{prefix}.{name}" for name in names)


def _inside(theirs: str, own: str, parts: Table) -> Table:
    """Return the table of a module's parts, with the module's name before each: `theirs` in the original code, and
    `own` here."""
    return {
        f"{theirs}.{name}": f"{own}.{layers}" if isinstance(layers, str) else _with_prefix(own, layers)
        for name, layers in parts.items()
    }


@dataclass(frozen=True)
class OriginalNames:
    """A table for the networks that have a layer `mark`.

    swapped: those original names whose weight has the halves of its outputs in the other order: shift and scale of a
        last norm.
    swapped_without: names that are swapped only in a block that lacks the layer.
    """

    mark: str
    table: Table
    swapped: tuple[str, ...] = ()
    swapped_without: Mapping[str, str] = field(default_factory=dict)


def _joint_attention(block: str) -> Table:
    """Return the names of a block of FLUX with two streams."""
    return {
        f"{block}.img_attn.qkv": _with_prefix(f"{DOUBLE}.attn", QKV),
        f"{block}.txt_attn.qkv": _with_prefix(f"{DOUBLE}.attn", ADDED_QKV),
        f"{block}.img_attn.proj": f"{DOUBLE}.attn.to_out.0",
        f"{block}.txt_attn.proj": f"{DOUBLE}.attn.to_add_out",
        f"{block}.img_attn.norm.query_norm": f"{DOUBLE}.attn.norm_q",
        f"{block}.img_attn.norm.key_norm": f"{DOUBLE}.attn.norm_k",
        f"{block}.txt_attn.norm.query_norm": f"{DOUBLE}.attn.norm_added_q",
        f"{block}.txt_attn.norm.key_norm": f"{DOUBLE}.attn.norm_added_k",
    }


FLUX = OriginalNames(  # FLUX.1 and Chroma
    f"{SINGLE}.proj_mlp",
    {
        **_joint_attention("double_blocks.N"),
        "double_blocks.N.img_mlp.0": f"{DOUBLE}.ff.net.0.proj",
        "double_blocks.N.img_mlp.2": f"{DOUBLE}.ff.net.2",
        "double_blocks.N.txt_mlp.0": f"{DOUBLE}.ff_context.net.0.proj",
        "double_blocks.N.txt_mlp.2": f"{DOUBLE}.ff_context.net.2",
        "double_blocks.N.img_mod.lin": f"{DOUBLE}.norm1.linear",
        "double_blocks.N.txt_mod.lin": f"{DOUBLE}.norm1_context.linear",
        "single_blocks.N.linear1": (*_with_prefix(f"{SINGLE}.attn", QKV), f"{SINGLE}.proj_mlp"),
        "single_blocks.N.linear2": f"{SINGLE}.proj_out",
        "single_blocks.N.modulation.lin": f"{SINGLE}.norm.linear",
        "single_blocks.N.norm.query_norm": f"{SINGLE}.attn.norm_q",
        "single_blocks.N.norm.key_norm": f"{SINGLE}.attn.norm_k",
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": f"{TIME_TEXT}.timestep_embedder.linear_1",
        "time_in.out_layer": f"{TIME_TEXT}.timestep_embedder.linear_2",
        "vector_in.in_layer": f"{TIME_TEXT}.text_embedder.linear_1",
        "vector_in.out_layer": f"{TIME_TEXT}.text_embedder.linear_2",
        "guidance_in.in_layer": f"{TIME_TEXT}.guidance_embedder.linear_1",
        "guidance_in.out_layer": f"{TIME_TEXT}.guidance_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
        "distilled_guidance_layer.layers.N.in_layer": "distilled_guidance_layer.layers.N.linear_1",
        "distilled_guidance_layer.layers.N.out_layer": "distilled_guidance_layer.layers.N.linear_2",
        # XLabs' processors of attention, whose keys have a number after "lora"
        "double_blocks.N.processor.qkv_lora1": _with_prefix(f"{DOUBLE}.attn", QKV),
        "double_blocks.N.processor.qkv_lora2": _with_prefix(f"{DOUBLE}.attn", ADDED_QKV),
        "double_blocks.N.processor.proj_lora1": f"{DOUBLE}.attn.to_out.0",
        "double_blocks.N.processor.proj_lora2": f"{DOUBLE}.attn.to_add_out",
        "single_blocks.N.processor.qkv": _with_prefix(f"{SINGLE}.attn", QKV),
        "single_blocks.N.processor.proj": f"{SINGLE}.proj_out",
    },
    ("final_layer.adaLN_modulation.1",),
)
HUNYUAN_VIDEO = OriginalNames(
    "context_embedder.token_refiner.refiner_blocks.N.attn.to_q",
    {
        "double_blocks.N.img_attn_qkv": _with_prefix(f"{DOUBLE}.attn", QKV),
        "double_blocks.N.txt_attn_qkv": _with_prefix(f"{DOUBLE}.attn", ADDED_QKV),
        "double_blocks.N.img_attn_proj": f"{DOUBLE}.attn.to_out.0",
        "double_blocks.N.txt_attn_proj": f"{DOUBLE}.attn.to_add_out",
        "double_blocks.N.img_attn_q_norm": f"{DOUBLE}.attn.norm_q",
        "double_blocks.N.img_attn_k_norm": f"{DOUBLE}.attn.norm_k",
        "double_blocks.N.txt_attn_q_norm": f"{DOUBLE}.attn.norm_added_q",
        "double_blocks.N.txt_attn_k_norm": f"{DOUBLE}.attn.norm_added_k",
        "double_blocks.N.img_mlp.fc1": f"{DOUBLE}.ff.net.0.proj",
        "double_blocks.N.img_mlp.fc2": f"{DOUBLE}.ff.net.2",
        "double_blocks.N.txt_mlp.fc1": f"{DOUBLE}.ff_context.net.0.proj",
        "double_blocks.N.txt_mlp.fc2": f"{DOUBLE}.ff_context.net.2",
        "double_blocks.N.img_mod.linear": f"{DOUBLE}.norm1.linear",
        "double_blocks.N.txt_mod.linear": f"{DOUBLE}.norm1_context.linear",
        "single_blocks.N.linear1": (*_with_prefix(f"{SINGLE}.attn", QKV), f"{SINGLE}.proj_mlp"),
        "single_blocks.N.linear2": f"{SINGLE}.proj_out",
        "single_blocks.N.modulation.linear": f"{SINGLE}.norm.linear",
        "single_blocks.N.q_norm": f"{SINGLE}.attn.norm_q",
        "single_blocks.N.k_norm": f"{SINGLE}.attn.norm_k",
        "img_in.proj": "x_embedder.proj",
        "txt_in.input_embedder": "context_embedder.proj_in",
        "txt_in.t_embedder.mlp.0": f"context_embedder.{TIME_TEXT}.timestep_embedder.linear_1",
        "txt_in.t_embedder.mlp.2": f"context_embedder.{TIME_TEXT}.timestep_embedder.linear_2",
        "txt_in.c_embedder.linear_1": f"context_embedder.{TIME_TEXT}.text_embedder.linear_1",
        "txt_in.c_embedder.linear_2": f"context_embedder.{TIME_TEXT}.text_embedder.linear_2",
        **_inside(
            "txt_in.individual_token_refiner.blocks.N",
            "context_embedder.token_refiner.refiner_blocks.N",
            {
                "self_attn_qkv": _with_prefix("attn", QKV),
                "self_attn_proj": "attn.to_out.0",
                "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2",
                "adaLN_modulation.1": "norm_out.linear",
                "norm1": "norm1",
                "norm2": "norm2",
            },
        ),
        "time_in.mlp.0": f"{TIME_TEXT}.timestep_embedder.linear_1",
        "time_in.mlp.2": f"{TIME_TEXT}.timestep_embedder.linear_2",
        "vector_in.in_layer": f"{TIME_TEXT}.text_embedder.linear_1",
        "vector_in.out_layer": f"{TIME_TEXT}.text_embedder.linear_2",
        "guidance_in.mlp.0": f"{TIME_TEXT}.guidance_embedder.linear_1",
        "guidance_in.mlp.2": f"{TIME_TEXT}.guidance_embedder.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    ("final_layer.adaLN_modulation.1",),
)
FLUX_2 = OriginalNames(
    f"{SINGLE}.attn.to_qkv_mlp_proj",
    {
        **_joint_attention("double_blocks.N"),
        "double_blocks.N.img_mlp.0": f"{DOUBLE}.ff.linear_in",
        "double_blocks.N.img_mlp.2": f"{DOUBLE}.ff.linear_out",
        "double_blocks.N.txt_mlp.0": f"{DOUBLE}.ff_context.linear_in",
        "double_blocks.N.txt_mlp.2": f"{DOUBLE}.ff_context.linear_out",
        "single_blocks.N.linear1": f"{SINGLE}.attn.to_qkv_mlp_proj",
        "single_blocks.N.linear2": f"{SINGLE}.attn.to_out",
        "single_blocks.N.norm.query_norm": f"{SINGLE}.attn.norm_q",
        "single_blocks.N.norm.key_norm": f"{SINGLE}.attn.norm_k",
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    ("final_layer.adaLN_modulation.1",),
)
STABLE_DIFFUSION_3 = OriginalNames(
    f"{DOUBLE}.norm1_context.linear",
    {
        "joint_blocks.N.x_block.attn.qkv": _with_prefix(f"{DOUBLE}.attn", QKV),
        "joint_blocks.N.x_block.attn2.qkv": _with_prefix(f"{DOUBLE}.attn2", QKV),
        "joint_blocks.N.context_block.attn.qkv": _with_prefix(f"{DOUBLE}.attn", ADDED_QKV),
        "joint_blocks.N.x_block.attn.proj": f"{DOUBLE}.attn.to_out.0",
        "joint_blocks.N.x_block.attn2.proj": f"{DOUBLE}.attn2.to_out.0",
        "joint_blocks.N.context_block.attn.proj": f"{DOUBLE}.attn.to_add_out",
        "joint_blocks.N.x_block.mlp.fc1": f"{DOUBLE}.ff.net.0.proj",
        "joint_blocks.N.x_block.mlp.fc2": f"{DOUBLE}.ff.net.2",
        "joint_blocks.N.context_block.mlp.fc1": f"{DOUBLE}.ff_context.net.0.proj",
        "joint_blocks.N.context_block.mlp.fc2": f"{DOUBLE}.ff_context.net.2",
        "joint_blocks.N.x_block.adaLN_modulation.1": f"{DOUBLE}.norm1.linear",
        "joint_blocks.N.context_block.adaLN_modulation.1": f"{DOUBLE}.norm1_context.linear",
        "joint_blocks.N.x_block.attn.ln_q": f"{DOUBLE}.attn.norm_q",
        "joint_blocks.N.x_block.attn.ln_k": f"{DOUBLE}.attn.norm_k",
        "joint_blocks.N.x_block.attn2.ln_q": f"{DOUBLE}.attn2.norm_q",
        "joint_blocks.N.x_block.attn2.ln_k": f"{DOUBLE}.attn2.norm_k",
        "joint_blocks.N.context_block.attn.ln_q": f"{DOUBLE}.attn.norm_added_q",
        "joint_blocks.N.context_block.attn.ln_k": f"{DOUBLE}.attn.norm_added_k",
        "t_embedder.mlp.0": f"{TIME_TEXT}.timestep_embedder.linear_1",
        "t_embedder.mlp.2": f"{TIME_TEXT}.timestep_embedder.linear_2",
        "y_embedder.mlp.0": f"{TIME_TEXT}.text_embedder.linear_1",
        "y_embedder.mlp.2": f"{TIME_TEXT}.text_embedder.linear_2",
        "x_embedder.proj": "pos_embed.proj",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    ("final_layer.adaLN_modulation.1",),
    {"joint_blocks.N.context_block.adaLN_modulation.1": f"{DOUBLE}.attn.to_add_out"},  # the last block
)
WAN_ATTENTION: Table = {
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "o": "to_out.0",
    "k_img": "add_k_proj",
    "v_img": "add_v_proj",
    "norm_k_img": "norm_added_k",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}
WAN_BLOCK: Table = {
    **_inside("self_attn", "attn1", WAN_ATTENTION),
    **_inside("cross_attn", "attn2", WAN_ATTENTION),
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "norm3": "norm2",
    "modulation": "scale_shift_table",
    "before_proj": "proj_in",
    "after_proj": "proj_out",
}
WAN = OriginalNames(
    "condition_embedder.time_proj",
    {
        **_inside("blocks.N", "blocks.N", WAN_BLOCK),
        **_inside("vace_blocks.N", "vace_blocks.N", WAN_BLOCK),
        "head.modulation": "scale_shift_table",
        "head.head": "proj_out",
        "time_embedding.0": "condition_embedder.time_embedder.linear_1",
        "time_embedding.2": "condition_embedder.time_embedder.linear_2",
        "text_embedding.0": "condition_embedder.text_embedder.linear_1",
        "text_embedding.2": "condition_embedder.text_embedder.linear_2",
        "time_projection.1": "condition_embedder.time_proj",
        "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
        "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
        "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
        "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    },
)
REFINED = ("layers.N", "noise_refiner.N", "context_refiner.N")  # the blocks of Z-Image and Lumina 2
Z_IMAGE_ATTENTION: Table = {"qkv": QKV, "out": "to_out.0", "q_norm": "norm_q", "k_norm": "norm_k"}
Z_IMAGE = OriginalNames(
    "all_x_embedder.2-1",
    {
        **{
            name: layers
            for block in REFINED
            for name, layers in _inside(f"{block}.attention", f"{block}.attention", Z_IMAGE_ATTENTION).items()
        },
        "x_embedder": "all_x_embedder.2-1",
        "final_layer.linear": "all_final_layer.2-1.linear",
        "final_layer.adaLN_modulation.1": "all_final_layer.2-1.adaLN_modulation.1",
    },
)
LUMINA_2_BLOCK: Table = {
    "attention.qkv": _with_prefix("attn", QKV),
    "attention.out": "attn.to_out.0",
    "attention.q_norm": "attn.norm_q",
    "attention.k_norm": "attn.norm_k",
    "feed_forward.w1": "feed_forward.linear_1",
    "feed_forward.w2": "feed_forward.linear_2",
    "feed_forward.w3": "feed_forward.linear_3",
    "adaLN_modulation.1": "norm1.linear",
    "attention_norm1": "norm1.norm",
    "attention_norm2": "norm2",
}
LUMINA_2 = OriginalNames(
    "time_caption_embed.timestep_embedder.linear_1",
    {
        **{name: layers for block in REFINED for name, layers in _inside(block, block, LUMINA_2_BLOCK).items()},
        "context_refiner.N.attention_norm1": "context_refiner.N.norm1",
        "cap_embedder.0": "time_caption_embed.caption_embedder.0",
        "cap_embedder.1": "time_caption_embed.caption_embedder.1",
        "t_embedder.mlp.0": "time_caption_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_caption_embed.timestep_embedder.linear_2",
        "final_layer.adaLN_modulation.1": "norm_out.linear_1",
        "final_layer.linear": "norm_out.linear_2",
    },
)
LTX_EMBEDDINGS = {  # of times, in LTX-Video and LTX-2
    "adaln_single": "time_embed",
    "audio_adaln_single": "audio_time_embed",
    "av_ca_video_scale_shift_adaln_single": "av_cross_attn_video_scale_shift",
    "av_ca_a2v_gate_adaln_single": "av_cross_attn_video_a2v_gate",
    "av_ca_audio_scale_shift_adaln_single": "av_cross_attn_audio_scale_shift",
    "av_ca_v2a_gate_adaln_single": "av_cross_attn_audio_v2a_gate",
    "prompt_adaln_single": "prompt_adaln",
    "audio_prompt_adaln_single": "audio_prompt_adaln",
}
LTX_ATTENTIONS = ("attn1", "attn2", "audio_attn1", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
LTX = OriginalNames(
    "time_embed.emb.timestep_embedder.linear_1",
    {
        "patchify_proj": "proj_in",
        "audio_patchify_proj": "audio_proj_in",
        **{
            f"{name}.{layer}": f"{own}.{layer}"
            for name, own in LTX_EMBEDDINGS.items()
            for layer in ("linear", "emb.timestep_embedder.linear_1", "emb.timestep_embedder.linear_2")
        },
        **{
            f"transformer_blocks.N.{attention}.{part}_norm": f"transformer_blocks.N.{attention}.norm_{part}"
            for attention in LTX_ATTENTIONS
            for part in "qk"
        },
        **{
            f"transformer_blocks.N.scale_shift_table_a2v_ca_{kind}": f"{DOUBLE}.{kind}_a2v_cross_attn_scale_shift_table"
            for kind in ("video", "audio")
        },
    },
)
# A network is of the first family whose mark it has: HunyuanVideo has that of FLUX too.
FAMILIES = (HUNYUAN_VIDEO, FLUX, FLUX_2, WAN, Z_IMAGE, LUMINA_2, LTX, STABLE_DIFFUSION_3)
