"""LoRA files, slots and changes where a bundle has several networks: each changes the network that it names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fewstep.cli.verbs.export import verb
from fewstep.export.changes import read_change
from fewstep.export.error_text import module_name, user_code_location
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.export.network_changes import Change, Changes
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.pipelines.relations import adapter
from fewstep.pipelines.relations.adapter import RecordedNetwork
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.lora.file import METADATA, Lora, lora_of, read_lora
from fewstep.runtime.lora.networks import loras_of
from fewstep.runtime.progress import SILENT
from fewstep.runtime.sampling.loading import load
from tests.bundle_of_experts import EDGE
from tests.export.lora.lora_files import Wrapped
from tests.refusals import refuses

pytestmark = pytest.mark.slow

TWO = ("transformer_2", "transformer")  # as in the folder of Wan 2.2: the denoiser is the first
WIDTHS = {"denoiser": 24, "noisy": 16}  # of tests.bundle_of_experts
PLAN = "ddim:4@trailing"  # steps at both sides of EDGE


def write(file: Path, *keys: str, width: int = 4, seed: int = 0, metadata: dict[str, str] | None = None) -> Path:
    """Write a LoRA of convolutions of `width` channels."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    for key in keys:
        tensors[f"{key}.lora_A.weight"] = 0.3 * torch.randn(2, width, 3, 3, generator=generator)
        tensors[f"{key}.lora_B.weight"] = 0.3 * torch.randn(width, 2, 1, 1, generator=generator)
    save_file(tensors, file, metadata)
    return file


def layers_of(network: str, *loras: Lora) -> list[tuple[str, ...]]:
    return [lora.layers("denoiser") for lora in loras_of(network, TWO, loras)]


def test_a_key_names_its_network(tmp_path: Path) -> None:
    keys = ("transformer.a", "transformer_2.b", "base_model.model.transformer_2.c")
    lora = lora_of(write(tmp_path / "a.safetensors", *keys), 1.0)
    assert layers_of("transformer", lora) == [("a",)]
    assert sorted(layers_of("transformer_2", lora)[0]) == ["b", "c"]


def test_the_caller_names_the_network_of_a_file_for_the_other_one(tmp_path: Path) -> None:
    lora = read_lora(f"{write(tmp_path / 'a.safetensors', 'transformer.a')}:0.5@transformer_2")
    assert (lora.strength, lora.network, lora.text) == (0.5, "transformer_2", "a.safetensors:0.5@transformer_2")
    assert layers_of("transformer_2", lora) == [("a",)] and layers_of("transformer", lora) == []


def test_a_file_that_names_no_network_is_refused_with_their_names(tmp_path: Path) -> None:
    lora = lora_of(write(tmp_path / "a.safetensors", "diffusion_model.a"), 1.0)
    with refuses(
        ("a.safetensors", "transformer_2, transformer"), "a.safetensors@transformer for the noisiest steps or"
    ):
        loras_of("transformer", TWO, [lora])
    assert [other.layers("denoiser") for other in loras_of("unet", ("unet",), [lora])] == [("diffusion_model.a",)]


@pytest.mark.parametrize("networks", [TWO, ("unet",)])
def test_a_network_that_does_not_exist_is_refused(tmp_path: Path, networks: tuple[str, ...]) -> None:
    lora = read_lora(f"{write(tmp_path / 'a.safetensors', 'a')}@transformer_3")
    with refuses("transformer_3", "transformer_2, transformer" if networks == TWO else "leave @ out"):
        loras_of(networks[0], networks, [lora])


def test_a_file_of_both_networks_is_not_put_into_one(tmp_path: Path) -> None:
    lora = read_lora(f"{write(tmp_path / 'a.safetensors', 'transformer.a', 'transformer_2.a')}@transformer")
    with refuses("transformer and transformer_2", "leave @transformer out"):
        loras_of("transformer", TWO, [lora])


def test_layers_of_text_encoders_are_changed_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", "a", "text_encoder.b")
    loras = [read_lora(f"{file}@{network}") for network in TWO]
    (quiet,), (noisy,) = ([own for own in loras_of(name, TWO, loras) if own.layers("denoiser")] for name in TWO)
    assert quiet.layers("text_encoder") == ("b",) and noisy.layers("text_encoder") == ()
    both = loras_of(TWO[0], TWO, [*loras, *loras])
    assert sum(bool(own.layers("text_encoder")) for own in both) == 1


def test_each_network_has_the_alpha_of_its_own_metadata(tmp_path: Path) -> None:
    fields = '{"transformer.lora_alpha": 4, "transformer_2.lora_alpha": 8, "transformer_2.alpha_pattern": {"b": 1}}'
    keys = ("transformer.a", "transformer_2.a", "transformer_2.b")
    lora = lora_of(write(tmp_path / "a.safetensors", *keys, metadata={"lora_adapter_metadata": fields}), 1.0)
    (noisy,), (quiet,) = (loras_of(name, TWO, [lora]) for name in ("transformer", "transformer_2"))
    assert noisy.scale("denoiser", "a").alpha == 4
    assert [quiet.scale("denoiser", layer).alpha for layer in "ab"] == [8, 1]


@pytest.mark.parametrize("key", ["b", "^b"])
@pytest.mark.parametrize(
    ("named", "chosen"), [("transformer_2", None), *((named, chosen) for named in TWO for chosen in TWO)]
)
def test_metadata_belongs_to_the_network_that_the_keys_name(
    key: str, named: str, chosen: str | None, tmp_path: Path
) -> None:
    """Also if the caller names the other one."""
    fields = json.dumps({f"{named}.lora_alpha": 8, f"{named}.alpha_pattern": {key: 1}})
    file = write(tmp_path / "a.safetensors", *(f"{named}.{layer}" for layer in "ab"), metadata={METADATA: fields})
    (own,) = loras_of(chosen or named, TWO, [lora_of(file, 1.0, chosen)])
    assert [own.scale("denoiser", layer).alpha for layer in "ab"] == [8, 1]


@pytest.mark.parametrize("key", ["^transformer_2.b", "transformer_2.b", "b"])
def test_an_alpha_of_peft_names_a_layer_of_all_networks(key: str, tmp_path: Path) -> None:
    write(tmp_path / "adapter_model.safetensors", *(f"base_model.model.transformer_2.{layer}" for layer in "ab"))
    config = {"lora_alpha": 8, "alpha_pattern": {key: 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (quiet,) = loras_of("transformer_2", TWO, [lora_of(tmp_path, 1.0)])
    assert [quiet.scale("denoiser", layer).alpha for layer in "ab"] == [8, 1]


def test_slots_and_changes_are_of_the_network_that_they_name() -> None:
    freeu, pag = read_change("freeu:1,1,1,1"), read_change("pag:middle")
    changes = Changes(
        (), (Change(freeu, "transformer"), Change(pag, "transformer_2")), (("a", "transformer"), ("b", None))
    )
    noisy, quiet = (changes.of(name, TWO) for name in ("transformer", "transformer_2"))
    assert (noisy.changes, quiet.changes) == ([freeu], [pag])
    assert (noisy.slots.layers, quiet.slots.layers) == (["a", "b"], ["b"])
    with refuses(("--change freeu:1,1,1,1", "transformer_2 or transformer"), "freeu:1,1,1,1@transformer"):
        Changes((), (Change(freeu),)).of("transformer", TWO)
    for wrong in (Changes((), (Change(freeu, "unet"),)), Changes((), (), (("a", "unet"),))):
        with refuses("unet", "transformer_2, transformer"):
            wrong.of("transformer", TWO)


def options_of(layers: Path, bundle: Path, **asked: Any) -> ExportOptions:
    file = layers.parent / "layers.py"
    return ExportOptions(f"{file}:wide", bundle, verify="quick", expert=(f"noisy={file}:thin@{EDGE}",), **asked)


def digests(manifest: Manifest) -> dict[str, list[str | None]]:
    """Return the hashes of the files of each network."""
    return {
        "denoiser": manifest.digests(manifest.bodies["float32"].graphs),
        "noisy": manifest.digests(manifest.networks["noisy"].bodies["float32"].graphs),
    }


def test_a_lora_changes_the_network_that_the_user_names(layers_of_experts: Path, tmp_path: Path) -> None:
    base = digests(open_bundle(layers_of_experts).manifest)
    for name, other in (("denoiser", "noisy"), ("noisy", "denoiser")):
        file = write(tmp_path / "a.safetensors", "inner", width=WIDTHS[name])
        options = options_of(layers_of_experts, tmp_path / name, lora=(f"{file}:0.5@{name}",))
        assert verb(options, SILENT).shown[1:] == (f"a.safetensors: 1 layer of {name}",)
        manifest = open_bundle(tmp_path / name).manifest
        assert digests(manifest)[name] != base[name] and digests(manifest)[other] == base[other]
        assert f"--lora a.safetensors:0.5@{name}" in manifest.provenance.commands[0]
        assert [lora.network for lora in manifest.provenance.adapters] == [name]
        with pytest.raises(UserError, match="does not say which network it changes"):
            export(options_of(layers_of_experts, tmp_path / "none", lora=(str(file),)))
        assert not (tmp_path / "none" / "manifest.json").exists()


def test_adapters_at_run_time_are_the_merged_files(layers_of_experts: Path, tmp_path: Path) -> None:
    files = {
        name: write(tmp_path / f"{name}.safetensors", "inner", width=width, seed=width)
        for name, width in WIDTHS.items()
    }
    texts = [f"{file}@{name}" for name, file in files.items()]
    slots = options_of(layers_of_experts, tmp_path / "slots", lora_slots=("inner",), rank=4)
    manifest = export(slots)
    assert manifest.lora_slots is not None and manifest.networks["noisy"].lora_slots is not None
    export(options_of(layers_of_experts, tmp_path / "merged", lora=tuple(texts)))
    base, merged, own = (load(path) for path in (layers_of_experts, tmp_path / "merged", tmp_path / "slots"))
    expected = merged.sample(PLAN, [0, 1])
    sampled = own.with_options(adapters=dict.fromkeys(texts, 1.0)).sample(PLAN, [0, 1])
    assert np.abs(sampled - expected).max() < 1e-5 < 1e-2 < np.abs(sampled - base.sample(PLAN, [0, 1])).max()
    with refuses("noisy.safetensors", ("noisy.safetensors@noisy for the noisiest steps", "noisy.safetensors@denoiser")):
        own.with_options(adapters={files["noisy"]: 1.0})
    with refuses("LoRA slots in several networks", "--lora-slots LAYERS@NETWORK"):
        bake(BakeOptions(tmp_path / "slots", PLAN, tmp_path / "run.onnx"))
    one = export(replace(slots, lora_slots=("inner@noisy",), output=tmp_path / "one"))
    assert one.lora_slots is None and one.networks["noisy"].lora_slots is not None
    with refuses("no slots for LoRA files in its network denoiser", "--lora-slots LAYERS@denoiser"):
        load(tmp_path / "one").with_options(adapters={texts[0]: 1.0})


def test_messages_name_the_class_of_the_users_network() -> None:
    wrapped: Any = RecordedNetwork(torch.nn.Linear(2, 2), cast(Any, None), cast(Any, None))
    assert module_name(wrapped) == "Linear" and module_name(Wrapped(wrapped)) == "Wrapped"


def test_a_location_is_in_the_users_code() -> None:
    frames = [f'  File "{file}", line 7, in forward\n' for file in (__file__, adapter.__file__, torch.__file__)]
    assert user_code_location(frames) == " (test_lora_networks.py:7)"
