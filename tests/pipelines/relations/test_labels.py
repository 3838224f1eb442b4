"""Labels that a call takes are conditions: integers below the size of the network's table, with the names of the
folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.export.load_source import load_source
from fewstep.pipelines.relations.labels import Labels, name_labels
from fewstep.runtime.bundle.manifest import Condition
from tests.refusals import refuses
from tests.tiny_pipelines import UNCONDITIONAL_UNET, autoencoder, randomize

diffusers = pytest.importorskip("diffusers")
SIZES: dict[str, Any] = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "patch_size": 2}


def write_dit(folder: Path, count: int = 1000) -> Path:
    """DiT, whose pipeline takes the label 1000 for none."""
    given = {**SIZES, "sample_size": 8, "in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": count}
    network, scheduler = randomize(diffusers.DiTTransformer2DModel(**given)), diffusers.DDIMScheduler()
    diffusers.DiTPipeline(transformer=network, vae=autoencoder(), scheduler=scheduler).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    named = {str(number): f"class {number}, also {number}" for number in range(count)}
    (folder / "model_index.json").write_text(json.dumps({**index, "id2label": named}))
    return folder


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "tench, Tinca tinca", "1": "goldfish, Carassius auratus", "2": "crane"}, ("tench", "goldfish", "crane")),
        ({"0": "crane", "1": "goldfish", "2": "Crane, a machine"}, ("crane 0", "goldfish", "Crane 2")),
        ({"0": "crane", "1": "crane", "2": "crane 1"}, ()),
        ({"0": "tench", "1": "goldfish"}, ()),
        ({"0": "tench", "1": 7, "2": "crane"}, ()),
        ({"0": "tench", "1": " ", "2": "crane"}, ()),
        (None, ()),
        (["tench", "goldfish", "crane"], ()),
    ],
)
def test_labels_are_the_first_names_of_all_classes(labels: Any, names: tuple[str, ...]) -> None:
    assert name_labels(labels, 3) == names


@pytest.mark.parametrize(("null", "limits"), [(None, (0, 4)), (4, (0, 3)), (0, (1, 4)), (2, (0, 4))])
def test_a_null_value_at_the_end_of_the_table_is_no_label(null: int | None, limits: tuple[int, int]) -> None:
    found = Labels("Pipe", 5).describe(Condition("label", "label", null=null))
    assert (found.low, found.high) == limits


def test_the_labels_of_a_dit_are_found_in_its_call(tmp_path: Path) -> None:
    (condition,) = load_source(str(write_dit(tmp_path / "dit"))).spec.conditions
    assert (condition.dtype, condition.null, condition.low, condition.high) == ("int64", 1000, 0, 999)
    assert condition.labels[:2] == ("class 0", "class 1") and len(condition.labels) == 1000


def test_a_null_label_that_the_network_does_not_have_is_refused(tmp_path: Path) -> None:
    folder = write_dit(tmp_path / "dit", 5)
    with refuses("DiTPipeline passes 1000 for no label", "--call guidance_scale=1"):
        load_source(str(folder))
    (condition,) = load_source(str(folder), call=["guidance_scale=1"]).spec.conditions
    assert (condition.null, condition.high) == (None, 5)


def test_labels_that_a_call_draws_at_random_are_given(tmp_path: Path) -> None:
    unet = randomize(diffusers.UNet2DModel(**UNCONDITIONAL_UNET, num_class_embeds=5))
    scheduler = diffusers.CMStochasticIterativeScheduler()
    diffusers.ConsistencyModelPipeline(unet=unet, scheduler=scheduler).save_pretrained(tmp_path)
    (condition,) = load_source(str(tmp_path)).spec.conditions
    assert (condition.name, condition.low, condition.high, condition.labels) == ("class_labels", 0, 4, ())
