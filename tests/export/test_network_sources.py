"""Options that name no network of a pipeline with two, which are refused before it is recorded."""

import json
from pathlib import Path

import pytest

from fewstep.export.export_options import ExportOptions
from fewstep.export.network_sources import load_changed_source, read_changes
from tests.refusals import refuses

NETWORK = ["diffusers", "WanTransformer3DModel"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"transformer_2": NETWORK, "boundary_ratio": 0.9}, ("does not say which network", "freeu:1,1,1,1")),
        ({"transformer_2": [None, None], "boundary_ratio": 0.9}, "scheduler_config.json"),
        ({"transformer_2": NETWORK, "boundary_ratio": None}, "scheduler_config.json"),
    ],
)
def test_an_option_that_names_none_of_two_networks_is_refused_early(
    tmp_path: Path, fields: dict[str, object], says: str | tuple[str, ...]
) -> None:
    index = {"_class_name": "WanPipeline", "transformer": NETWORK, **fields}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    options = ExportOptions(str(tmp_path), tmp_path / "bundle", change=("freeu:1,1,1,1",))
    with refuses(says):
        load_changed_source(options, read_changes(options), ())
