import json

import pytest

from benchmarks.shipped.cifar10_card import distances


def test_distances_are_told_with_what_they_depend_on(tmp_path):
    one = {"samples": 1000, "reference": "test", "references": 10000, "frechet": 12.345, "frechet_float": 12.3}
    found = {
        "plan": "dpmpp_2m:8",
        "guidance": "2",
        "features": {"name": "cifar10-cnn", "size": 64},
        "bodies": [{"body": "int8-cpu-x86", "distances": [{**one, "floor": 1.25, "detectable": False}]}],
    }
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(found))
    text = distances(path)
    assert "FD(cifar10-cnn)" in text and "64 features" in text and "`dpmpp_2m:8`, guidance 2" in text
    assert "| `int8-cpu-x86` | 1000 | test (10000) | 12.35 | 12.30 | 1.25 | not detectably |" in text
    path.write_text(json.dumps({**found, "features": None}))
    with pytest.raises(SystemExit, match="has no distances"):
        distances(path)
