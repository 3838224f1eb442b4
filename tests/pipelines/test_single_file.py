"""A checkpoint in one file, with the configs of a folder: the same weights as in diffusers' folder."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from fewstep.export.load_source import load_source
from fewstep.pipelines import single_file
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.files.gguf_file import read_gguf
from fewstep.pipelines.single_file import BARE, LDM, _convert_component, _name_denoiser, _other_names, convert_file
from tests.export.sources.hub_server import serve, use_hub
from tests.pipelines.original_checkpoints import stable_diffusion_checkpoint, unet_checkpoint, wan_checkpoint
from tests.recorded_pipelines import wan_with_two_networks
from tests.recorded_pipelines.components import make_network
from tests.refusals import refuses
from tests.tiny_pipelines import (
    WITHOUT_CHECKER,
    attention_unet,
    clip_components,
    randomize,
    write_clip_tokenizer,
    write_index,
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import diffusers

    home = tmp_path_factory.mktemp("sd")
    torch.manual_seed(0)
    files = write_clip_tokenizer(home / "tokenizer")
    made: Any = diffusers.StableDiffusionPipeline(**clip_components(files, attention_unet()), **WITHOUT_CHECKER)
    for name in ("unet", "vae", "text_encoder", "scheduler"):
        getattr(made, name).save_pretrained(home / name)
    write_index(home, made)
    made.home = home
    return made


@pytest.fixture
def configs(pipeline: Any, tmp_path: Path) -> Path:
    """Return the folder of the pipeline without weights."""
    without = shutil.ignore_patterns("*.safetensors")
    return Path(shutil.copytree(pipeline.home, tmp_path / "configs", ignore=without))


def assert_same(folder: Path, pipeline: Any, *components: str) -> None:
    for name in components:
        (file,) = (folder / name).glob("*.safetensors")
        stored, own = load_file(file), getattr(pipeline, name).state_dict()
        assert stored.keys() == own.keys() and all(torch.equal(stored[key], own[key]) for key in own), name


def test_every_network_of_a_file_has_its_weights(
    pipeline: Any, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(stable_diffusion_checkpoint(pipeline), configs.parent / "sd.safetensors")
    converted = convert_file(configs.parent / "sd.safetensors", configs)
    assert converted.without == ()
    assert_same(converted.folder, pipeline, "unet", "vae", "text_encoder")
    unread = [record.message for record in caplog.records if "reads" in record.message]
    assert len(unread) == 1 and "alphas_cumprod" in unread[0] and "position_ids" in unread[0]


@pytest.mark.slow
def test_missing_networks_are_named_or_come_from_the_folder(
    pipeline: Any, configs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_file(unet_checkpoint(pipeline.unet), configs.parent / "unet.safetensors")
    shutil.copytree(pipeline.home / "vae", configs / "vae", dirs_exist_ok=True)
    converted = convert_file(configs.parent / "unet.safetensors", configs)
    assert converted.without == ("text_encoder",) and "no weights of text_encoder (CLIPTextModel)" in caplog.text
    assert_same(converted.folder, pipeline, "unet", "vae")


@pytest.mark.slow
def test_int8_weights_of_a_file_are_rotated_back(pipeline: Any, configs: Path) -> None:
    """As ComfyUI's files have them: integers, scales of rows, and the format in bytes."""
    whole, file = unet_checkpoint(pipeline.unet), configs.parent / "convrot.safetensors"
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2.0
    stated = b'{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 4, "per_row": true}'
    for name in [name for name in whole if name.endswith("attn1.to_q.weight")]:
        rotated = (whole[name].reshape(len(whole[name]), -1, 4) @ four).reshape(whole[name].shape)
        scale = rotated.abs().amax(1, keepdim=True) / 127
        layer = name.removesuffix(".weight")
        whole |= {name: (rotated / scale).round().to(torch.int8), f"{layer}.weight_scale": scale}
        whole[f"{layer}.comfy_quant"] = torch.tensor([*stated], dtype=torch.uint8)
    save_file(whole, file)
    (stored,) = (convert_file(file, configs).folder / "unet").glob("*.safetensors")
    own = pipeline.unet.state_dict()
    for name, weight in load_file(stored).items():
        limit = 0.02 * own[name].abs().max() if name.endswith("attn1.to_q.weight") else 0.0
        assert (weight - own[name]).abs().max() <= limit, name


@pytest.mark.slow
def test_a_file_that_lacks_weights_or_has_others_is_refused(pipeline: Any, configs: Path) -> None:
    whole, file = unet_checkpoint(pipeline.unet), configs.parent / "a.safetensors"
    name = next(name for name in whole if name.endswith("transformer_blocks.0.attn1.to_q.weight"))
    save_file({key: tensor for key, tensor in whole.items() if key != name}, file)
    with refuses(("a.safetensors", "unet", "attn1.to_q.weight"), "--config"):
        convert_file(file, configs)
    save_file(whole | {"model.diffusion_model.extra.weight": torch.ones(2, 2)}, file)
    with refuses(("a.safetensors", "model.diffusion_model.extra.weight"), "--config"):
        convert_file(file, configs)
    layer = name.removesuffix(".weight")
    save_file(whole | {f"{layer}.SCB": torch.ones(len(whole[name]))}, file)
    with refuses(("a.safetensors", f"{layer}.SCB"), "if they are scales"):
        convert_file(file, configs)
    save_file({"lora_unet_x.lora_up.weight": torch.ones(2, 2)}, file)
    with refuses("a.safetensors is a LoRA", "--lora"):
        convert_file(file, configs)


@pytest.mark.slow
def test_a_changed_file_is_converted_again(pipeline: Any, configs: Path) -> None:
    """Also if its size and its time stay the same, and if only a config changes."""
    whole, file = unet_checkpoint(pipeline.unet), configs.parent / "a.safetensors"
    save_file(whole, file)
    first, time = convert_file(file, configs), file.stat().st_mtime_ns
    assert convert_file(file, configs) is first
    save_file({name: 2 * tensor for name, tensor in whole.items()}, file)
    os.utime(file, ns=(time, time))
    second = convert_file(file, configs)
    old, new = (
        load_file(conversion.folder / "unet/diffusion_pytorch_model.safetensors") for conversion in (first, second)
    )
    assert all(torch.equal(2 * old[name], new[name]) for name in old)
    (configs / "scheduler/scheduler_config.json").write_text("{}")
    assert (convert_file(file, configs).folder / "scheduler/scheduler_config.json").read_text() == "{}"


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_read_is_refused(
    pipeline: Any, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, file = unet_checkpoint(pipeline.unet), configs.parent / "a.safetensors"
    save_file(whole, file)

    def convert(*arguments: Any, **options: Any) -> Any:
        file.touch()
        return _convert_component(*arguments, **options)

    monkeypatch.setattr(single_file, "_convert_component", convert)
    with refuses("a.safetensors", "run the command again"):
        convert_file(file, configs)


@pytest.mark.slow
def test_two_files_of_one_name_have_their_own_folders(pipeline: Any, configs: Path) -> None:
    whole, files = unet_checkpoint(pipeline.unet), [configs.parent / home / "a.safetensors" for home in "xy"]
    shutil.copytree(pipeline.home / "vae", configs / "vae", dirs_exist_ok=True)
    for factor, file in zip((1.0, 2.0), files, strict=True):
        file.parent.mkdir()
        save_file({name: factor * tensor for name, tensor in whole.items()}, file)
    folders = [convert_file(file, configs).folder for file in files]
    first, second = (load_file(folder / "unet/diffusion_pytorch_model.safetensors") for folder in folders)
    assert {folder.name for folder in folders} == {"a"}
    assert all(torch.equal(2 * first[name], second[name]) for name in first)


@pytest.mark.slow
def test_the_configs_may_come_from_a_hub(
    pipeline: Any, configs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any weights there: the source is that of the same folder on this machine."""
    pytest.importorskip("huggingface_hub")
    shutil.copytree(pipeline.home / "vae", configs / "vae", dirs_exist_ok=True)
    file = tmp_path / "mine.safetensors"
    save_file(stable_diffusion_checkpoint(pipeline), file)
    with serve({"org/configs": configs}) as (address, requests):
        use_hub(monkeypatch, address, tmp_path / "cache")
        of_hub = load_source(str(file), config="org/configs")
    assert "unet/config.json" in requests and not [name for name in requests if name.endswith(".safetensors")]
    of_folder = load_source(str(file), config=str(configs))
    assert (of_hub.spec, of_hub.label) == (of_folder.spec, of_folder.label)
    weights = of_folder.module.state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in of_hub.module.state_dict().items())


@pytest.mark.slow
def test_a_missing_config_on_a_hub_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    save_file({"a.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text("{}")
    with serve({"org/other": tmp_path / "other"}) as (address, _):
        use_hub(monkeypatch, address, tmp_path / "cache")
        with refuses("org/missing", "check the name"):
            load_source(str(tmp_path / "a.safetensors"), config="org/missing")
        with refuses(("org/other", "model_index.json"), "ORG/NAME"):
            load_source(str(tmp_path / "a.safetensors"), config="org/other")


def test_integers_without_a_scale_are_refused(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2, 2, dtype=torch.int8), "a.SCB": torch.ones(2)}, tmp_path / "a.safetensors")
    with refuses("stores 'a.weight' as int8, without a scale", "bfloat16 or float16"):
        single_file._read_safetensors(tmp_path / "a.safetensors")


def test_the_layer_after_the_last_one_of_stable_diffusion_2_is_not_missed(tmp_path: Path) -> None:
    """Its text encoder ends before this layer. A weight of another layer is missed."""
    home = "cond_stage_model.model.transformer.resblocks."
    tensors = {f"{home}{number}.mlp.c_fc.weight": torch.ones(2, 2) for number in (21, 22, 23)}
    read = {f"{home}{number}.mlp.c_fc.weight" for number in (21, 22)}
    single_file._report_unread(tmp_path / "a.safetensors", tmp_path, tensors, read)
    with refuses("resblocks.22.mlp"):
        single_file._report_unread(tmp_path / "a.safetensors", tmp_path, tensors, read - {f"{home}22.mlp.c_fc.weight"})


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
def test_a_prefix_of_the_denoiser_is_removed_except_for_a_unet(prefix: str, tmp_path: Path) -> None:
    """diffusers removes it for some classes only."""
    weight, other = torch.ones(2, 2), torch.zeros(2)
    for name, read in (("blocks.0.q.weight", "blocks.0.q.weight"), (f"{BARE}0.weight", f"{LDM}{BARE}0.weight")):
        vae = {"vae.x.weight": other} if prefix else {}
        assert _name_denoiser(tmp_path / "a.safetensors", {f"{prefix}{name}": weight, **vae}) == {read: weight}
    if prefix:
        with refuses(("'x.weight' with and without", prefix)):
            _name_denoiser(tmp_path / "a.safetensors", {f"{prefix}x.weight": weight, "x.weight": other})


def test_a_parameter_that_two_layers_share_is_stored_once() -> None:
    """As in ComfyUI's files: a T5 has its embedding as `shared` only."""
    transformers = pytest.importorskip("transformers")
    config = transformers.T5Config(d_model=4, d_kv=2, d_ff=4, num_layers=1, num_heads=2, vocab_size=5)
    with torch.device("meta"):
        network = transformers.T5EncoderModel(config)
    lost = "encoder.final_layer_norm.weight"
    for name, weight in list(network.named_parameters(remove_duplicate=False)):
        if name not in ("encoder.embed_tokens.weight", lost):
            layer, _, kind = name.rpartition(".")
            setattr(network.get_submodule(layer), kind, nn.Parameter(torch.ones(weight.shape)))
    assert single_file._lacking(network) == [lost]
    assert network.encoder.embed_tokens.weight is network.shared.weight


def test_a_projection_that_a_text_encoder_does_not_need_is_not_missed() -> None:
    plain, projected = nn.Linear(4, 4), nn.ModuleDict({"text_projection": nn.Linear(4, 4, bias=False)})
    trained, identity = torch.randn(4, 4), torch.eye(4)
    assert single_file._is_implied(trained, plain) and single_file._is_implied(identity, projected)
    assert not single_file._is_implied(trained, projected)
    assert not single_file._is_implied(torch.ones(4, 4, 4), projected)


def test_a_lora_as_a_source_is_named(tmp_path: Path) -> None:
    tensors = {f"lora_unet_x.lora_{side}.weight": torch.ones(2, 2) for side in ("up", "down")}
    error = _other_names(tmp_path / "a.safetensors", nn.Linear, tensors)
    assert "a.safetensors is a LoRA" in str(error) and "--lora" in error.fix
    error = _other_names(tmp_path / "a.safetensors", nn.Linear, {"net.x.weight": torch.ones(2, 2)})
    assert "no Linear in a.safetensors: it has 'net.x.weight'" in str(error) and "--config" in error.fix


def test_a_file_without_tensors_is_named(tmp_path: Path) -> None:
    with refuses("a.safetensors: it has no tensors", "--config"):
        raise _other_names(tmp_path / "a.safetensors", nn.Linear, {})


def test_a_bias_that_no_layer_reads_is_refused_unless_it_is_0(tmp_path: Path) -> None:
    for value in (0.0, 1.0):
        tensors = {"a.out.weight": torch.ones(2, 2), "a.out.bias": torch.full((2,), value)}
        if value == 0:
            single_file._report_unread(tmp_path / "a.safetensors", tmp_path, tensors, {"a.out.weight"})
            continue
        with refuses(("a.safetensors", "a.out.bias"), "--config"):
            single_file._report_unread(tmp_path / "a.safetensors", tmp_path, tensors, {"a.out.weight"})


def test_a_class_that_diffusers_does_not_convert_comes_from_the_folder(tmp_path: Path) -> None:
    """It has `from_single_file`, which then fails."""
    import diffusers

    kind, file = diffusers.AutoencoderKLQwenImage, tmp_path / "a.safetensors"
    assert hasattr(kind, "from_single_file")
    assert single_file._convert_component({}, Folder(tmp_path), "vae", kind, must_exist=False, file=file) is None


def test_a_damaged_gguf_file_and_an_unknown_format_of_blocks_are_refused(
    tmp_path: Path,
) -> None:
    gguf, file = pytest.importorskip("gguf"), tmp_path / "a.gguf"
    file.write_bytes(b"GGUF" + bytes(64))
    with refuses("a.gguf is not a whole GGUF file", "copy it again"):
        read_gguf(file)
    writer = gguf.GGUFWriter(str(file), "sd1")
    writer.add_tensor("a.weight", np.ones((2, 2), np.int32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with refuses(("a.gguf", "I32"), "BF16"):
        read_gguf(file)


@pytest.mark.slow
def test_the_source_has_the_name_of_the_file(pipeline: Any, configs: Path) -> None:
    file = configs.parent / "mine.safetensors"
    save_file(stable_diffusion_checkpoint(pipeline), file)
    own, source = load_source(str(pipeline.home)), load_source(str(file), config=str(configs))
    assert (source.spec.name, source.label) == ("mine", str(file))
    ours, theirs = (of_source.module.state_dict() for of_source in (source, own))  # type: ignore[attr-defined]
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert source.companions is not None and set(source.companions.encoders) == {"text_encoder"}


@pytest.mark.parametrize(
    ("file", "config", "names", "fix"),
    [
        ("a.safetensors", None, "a.safetensors holds weights only", "--config FOLDER"),
        ("a.ckpt", None, "a.ckpt is a pickle", "FILE.py"),
        ("a.ckpt", "b", "a.ckpt", "FILE.py"),
        ("gone.safetensors", "b", "no file", "check the path"),
        ("fashion_mnist", "b", "fashion_mnist", "leave --config out"),
    ],
)
def test_a_file_without_configs_is_refused_with_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, config: str | None, names: str, fix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.safetensors", "a.ckpt"):
        Path(name).write_bytes(b"")
    with refuses(names, fix):
        load_source(file, config=config)


def wan_configs(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """Return the folder of Wan without weights of its networks, and a checkpoint."""
    wan_with_two_networks(folder)
    network = randomize(make_network("wan", patch_size=(1, 1, 1)))
    for name in ("transformer", "transformer_2"):
        (folder / name / "diffusion_pytorch_model.safetensors").unlink()
    return folder, wan_checkpoint(network, "model.diffusion_model.")


@pytest.mark.slow
def test_a_file_of_one_of_two_networks_is_refused(tmp_path: Path) -> None:
    configs, tensors = wan_configs(tmp_path / "wan")
    save_file(tensors, tmp_path / "a.safetensors")
    with refuses(("transformer and transformer_2", "a.safetensors"), "WanTransformer3DModel.from_single_file"):
        convert_file(tmp_path / "a.safetensors", configs)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["F32", "BF16", "Q8_0", "Q4_0"])
def test_a_gguf_file_has_the_values_that_gguf_dequantizes(
    format: str, pipeline: Any, configs: Path, tmp_path: Path
) -> None:
    """Weights whose rows are whole blocks of 32 numbers are stored in such a format, as converters do."""
    gguf = pytest.importorskip("gguf")
    kind, file = getattr(gguf.GGMLQuantizationType, format), tmp_path / "a.gguf"
    writer, expected = gguf.GGUFWriter(str(file), "sd1"), {}
    for name, tensor in unet_checkpoint(pipeline.unet, "").items():
        values = tensor.numpy()
        own = kind if values.ndim == 2 and values.shape[1] % 32 == 0 else gguf.GGMLQuantizationType.F32
        data = gguf.quants.quantize(values, own)
        writer.add_tensor(name, data, raw_dtype=own)
        expected[name] = gguf.quants.dequantize(data, own).reshape(values.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    stored = load_file(convert_file(file, configs).folder / "unet" / "diffusion_pytorch_model.safetensors")
    names = dict(zip(expected, unet_names(pipeline), strict=True))
    assert all(np.array_equal(stored[names[name]].numpy(), value) for name, value in expected.items())
    is_rounded = any(
        not np.array_equal(own.numpy(), stored[name].numpy()) for name, own in pipeline.unet.state_dict().items()
    )
    assert is_rounded == (format != "F32")


def unet_names(pipeline: Any) -> list[str]:
    """Return the names of the weights in diffusers, in the order of the checkpoint."""
    return list(pipeline.unet.state_dict())
