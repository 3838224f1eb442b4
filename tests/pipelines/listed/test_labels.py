"""The labels of a DiT folder are those of its model_index.json."""

import json
from pathlib import Path
from typing import Any

import pytest

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.labels import read_labels
from fewstep.pipelines.listed.transformers import DiTTransformer2DModel

DIT = {"num_embeds_ada_norm": 3, "sample_size": 8, "in_channels": 4, "out_channels": 8, "norm_type": "ada_norm_zero"}


def folder_with(path: Path, labels: Any) -> Folder:
    (path / "model_index.json").write_text(json.dumps({"_class_name": "DiTPipeline", "id2label": labels}))
    return Folder(path)


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
def test_labels_are_the_first_names_of_all_classes(tmp_path: Path, labels: Any, names: tuple[str, ...]) -> None:
    assert read_labels(folder_with(tmp_path, labels), 3) == names


def test_a_folder_of_one_network_names_no_classes(tmp_path: Path) -> None:
    assert read_labels(Folder(tmp_path), 3) == ()


def test_the_condition_of_a_dit_takes_its_labels(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, {"0": "tench", "1": "goldfish", "2": "crane"})
    (condition,) = DiTTransformer2DModel(DIT, folder).conditions
    assert condition.labels == ("tench", "goldfish", "crane") and condition.null == 3
