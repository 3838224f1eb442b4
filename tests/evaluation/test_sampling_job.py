"""A worker samples with the engine and the code of the machine that asks, or not at all."""

import pickle
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from fewstep.evaluation import sampling_job as module
from fewstep.evaluation.sampling_job import Batch, SamplingJob, sampling_job
from fewstep.lowering import bodies
from fewstep.lowering.targets import targets_by_name
from fewstep.machine.code_digest import code_of
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.loading import load
from tests.evaluation.judged_bundle import make_bundle

BODY, OTHER = "int8-cpu-x86", "int8-openvino"


def job(folder: Path) -> SamplingJob:
    return sampling_job(open_bundle(make_bundle(folder)), (BODY,))


def with_engine(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    """As if this machine had OpenVINO in a version, or had none."""

    def imported() -> None:
        if version is None:
            raise UserError("no openvino", "install it")

    target = replace(targets_by_name()["openvino"], requires=imported, version=lambda: str(version))
    monkeypatch.setattr(bodies, "targets_by_name", lambda: {"openvino": target})


def test_a_worker_like_this_process_samples(tmp_path: Path) -> None:
    asked = pickle.loads(pickle.dumps(job(tmp_path / "tiny")))
    conditions = {"class": np.array([3, 5])}
    plan = load(tmp_path / "tiny").compile("ddim:2")
    samples = asked.open(1)(Batch(BODY, plan, range(2), conditions))
    np.testing.assert_array_equal(samples, load(tmp_path / "tiny", body=BODY).sample("ddim:2", range(2), conditions))


@pytest.mark.parametrize(
    ("there", "said"), [(None, "onnxruntime: 8-bit rounding simulated, the rest float32"), ("2.0", "OpenVINO 2.0")]
)
def test_a_worker_with_another_engine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str | None, said: str
) -> None:
    folder = make_bundle(tmp_path / "tiny")
    path = folder / "manifest.json"
    manifest = msgspec.json.decode(path.read_bytes())
    manifest["bodies"][OTHER] = {**manifest["bodies"][BODY], "target": "openvino"}
    path.write_bytes(msgspec.json.encode(manifest))
    with_engine(monkeypatch, "1.0")
    asked = sampling_job(open_bundle(folder), (OTHER,))
    assert asked.engines == {OTHER: "OpenVINO 1.0"}
    asked.open(1)
    with_engine(monkeypatch, there)
    with pytest.raises(UserError, match=f"another engine for {OTHER}: OpenVINO 1.0 here, {said} there; install"):
        asked.open(1)


def test_a_worker_with_other_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job(tmp_path / "tiny")
    (tmp_path / "edited").mkdir()
    (tmp_path / "edited/__init__.py").write_text("EDITED = True")
    edited = SimpleNamespace(__path__=[str(tmp_path / "edited")])
    monkeypatch.setattr(module, "code_of", lambda _: code_of((edited,)))
    with pytest.raises(UserError, match=f"other code of fewstep: {asked.code} here"):
        asked.open(1)
