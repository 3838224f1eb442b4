"""A baked file contains its checksum, a sample, and the limits of its conditions."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Timer
from typing import get_args

import msgspec
import numpy as np
import onnx
import pytest

from fewstep.cli.main import main
from fewstep.graph.bake import seal_check
from fewstep.graph.bake.bake import assemble_run, bake
from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.metadata import encode_metadata
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.parts.split_run import split_run
from fewstep.graph.bake.run_setup import add_batch_check, add_limit_check
from fewstep.graph.bake.seal_check import is_whole, read_metadata
from fewstep.graph.builder import Builder
from fewstep.graph.files import io
from fewstep.graph.graph import Value
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError
from fewstep.report.baked_integrity import verify_baked
from fewstep.runtime import load
from fewstep.runtime.bundle.manifest import Condition, DType
from fewstep.runtime.machine.memory import Space
from tests.free_size_bundle import free
from tests.graph.bake.run_baked import open_baked, run_file
from tests.refusals import refuses


@pytest.fixture
def file(tiny_bundle: Path, tmp_path: Path) -> Path:
    bake(BakeOptions(tiny_bundle, "ddim(eta=1):3", tmp_path / "s.onnx", "int8", guidance=2.0))
    return tmp_path / "s.onnx"


def test_the_test_vector_is_a_sample_of_the_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    baked = read_metadata(file)
    assert baked == open_baked(file)[1] and baked.sample is not None
    assert (baked.sample.seed, baked.sample.sizes, baked.sample.inputs) == (0, {"batch": 1}, {"class": 0.0})
    np.testing.assert_allclose(baked.sample.values, run_file(file, [0], **{"class": [0]}).reshape(-1), rtol=1e-6)
    assert main(["verify", str(file)]) == 0
    assert "is bitwise identical to the sample of the baking machine" in capsys.readouterr().out
    assert main(["inspect", str(file)]) == 0
    assert "a baked file of tiny, not a bundle; with a checksum, with a test vector" in capsys.readouterr().out
    for line in (["verify", str(file), "--engines"], ["inspect", str(file), "--operations"]):
        assert main(line) == 1 and "not of a baked file; leave" in capsys.readouterr().err


def test_a_file_whose_condition_follows_a_size_is_verified(tiny_bundle: Path, tmp_path: Path) -> None:
    bake(BakeOptions(free(tiny_bundle), "ddim:2", tmp_path / "s.onnx"))
    assert read_metadata(tmp_path / "s.onnx").conditions[-1].follows == {1: "height*2", 2: "width"}
    assert main(["verify", str(tmp_path / "s.onnx")]) == 0


def test_every_changed_byte_is_found(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = file.read_bytes()
    for at in range(0, len(content), len(content) // 40):
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with suppress(UserError):  # where the description itself is damaged
            assert not verify_baked(file).is_whole
    file.write_bytes(content + b" ")
    assert main(["verify", str(file)]) == 1
    assert "its checksum differs; copy it again, or bake it again" in capsys.readouterr().out
    for damaged in (b"", b"no protobuf"):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged or not a file of `fewstep bake`"):
            verify_baked(file)


def test_weights_next_to_the_file_are_checked(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.graph.bake.test_bake import scale_by_a_large_table

    monkeypatch.setattr("fewstep.graph.bake.write.SEPARATE_FILE_ABOVE", -1)
    scale_by_a_large_table(tiny_bundle, 0.5)
    _, (file, data) = bake(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "s.onnx"))
    assert verify_baked(file).is_whole
    data.write_bytes(data.read_bytes()[:-1] + b"x")
    assert [damage.what for damage in verify_baked(file).damages] == [
        f"{data.name}, the weights of {file}, is missing or damaged"
    ]
    content = file.read_bytes()
    for at in range(0, content.find(seal_check.MARK), 500):  # also where the names of weight files cannot be read
        file.write_bytes(content[:at] + bytes([content[at] ^ 127]) + content[at + 1 :])
        (damage,) = verify_baked(file).damages
        assert damage.what == f"{file} changed since it was baked: its checksum differs"


@pytest.mark.parametrize(("off", "said"), [(0.02, "round differently"), (0.5, "computes a different sample here: 12.")])
def test_another_machine_may_round_but_not_compute_another_sample(
    file: Path, monkeypatch: pytest.MonkeyPatch, off: float, said: str
) -> None:
    """PSNR has peak 2: 0.02 everywhere is 40 dB, 0.5 is 12.04 dB."""
    computed = seal_check.compute_sample
    monkeypatch.setattr("fewstep.report.baked_integrity.compute_sample", lambda *of: computed(*of) + np.float32(off))
    integrity = verify_baked(file)
    assert integrity.psnr == pytest.approx(20 * np.log10(2 / off), abs=1e-3) and integrity.is_whole is (off < 0.1)
    assert said in "".join([integrity.sample, *(damage.what for damage in integrity.damages)])


def test_a_file_that_was_baked_before_checksums_opens_and_says_so(file: Path) -> None:
    baked = msgspec.to_builtins(read_metadata(file))
    previous = {name: value for name, value in baked.items() if name not in ("file_sha256", "sample")}
    io.set_metadata(file, {"fewstep": json.dumps(previous, separators=(",", ":"))})
    assert read_metadata(file).plan == "ddim(eta=1):3" and "fewstep" in encode_metadata(read_metadata(file))
    with refuses("checksum", "bake it again"):
        is_whole(file)


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("value", [-1, -4, 77])
def test_values_beyond_the_limits_of_a_condition_are_refused(
    tiny_bundle: Path, tmp_path: Path, value: int, batch: int | None
) -> None:
    bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx", guidance=2.0, batch=batch))
    with pytest.raises(Exception, match="class_is_from_0_to_"):  # onnxruntime's exceptions share no class
        run_file(tmp_path / "s.onnx", [0], **{"class": [value]})


def test_the_null_value_of_a_condition_gives_the_unconditional_sample(tiny_bundle: Path, tmp_path: Path) -> None:
    bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx"))
    with load(tiny_bundle) as sampler:
        (condition,) = sampler.bundle.manifest.conditions
        assert condition.high is not None and condition.null == condition.high + 1
        values = [condition.null, 1]
        expected = sampler.sample("ddim:2", [0, 1], {"class": np.array(values, np.int64)})
    np.testing.assert_array_equal(run_file(tmp_path / "s.onnx", [0, 1], **{"class": values}), expected)


@pytest.mark.parametrize(("seeds", "labels"), [([0], [1, 2]), ([0, 1], [1, 2, 0]), ([0, 1], [1])])
def test_another_number_of_labels_than_of_samples_is_refused(
    tiny_bundle: Path, tmp_path: Path, seeds: list[int], labels: list[int]
) -> None:
    """With guidance, the unconditional branch of the second step had the rows of another sample."""
    bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx", guidance=2.0))
    with pytest.raises(Exception, match="class_has_one_value_per_sample"):
        run_file(tmp_path / "s.onnx", seeds, **{"class": labels})


@pytest.mark.parametrize("dtype", get_args(DType))
def test_the_number_of_values_of_every_type_is_checked(dtype: DType) -> None:
    outer, value = Builder("run"), np.array([[0, 1]], dtype)
    result = add_batch_check(outer, RunBatch(outer, None, "noise"), "flag", "flag")
    noise = np.zeros((1, 3), np.float32)
    ports = [Value("flag", value.dtype, ("batch", 2)), Value("noise", noise.dtype, ("batch", 3))]
    session = open_session(outer.graph(ports, [Value(result, value.dtype, ("batch", 2))], {}))
    (output,) = session({"flag": value, "noise": noise}).values()
    np.testing.assert_array_equal(output, value)


@pytest.mark.parametrize("dtype", get_args(DType))
def test_limits_of_every_type_load(dtype: DType) -> None:
    outer, value = Builder("run"), np.array([[0, 1]], dtype)
    result = add_limit_check(outer, Condition("flag", "flag", (2,), dtype, low=0, high=0, null=1), "flag")
    ports = [Value(name, value.dtype, ("batch", 2)) for name in dict.fromkeys(("flag", result))]
    (output,) = open_session(outer.graph(ports[:1], ports[-1:], {}))({"flag": value}).values()
    np.testing.assert_array_equal(output, value)


class Over(Timer):
    """A timer that has expired from the start."""

    def start(self) -> None:
        self.function(*self.args)


def fail(*_: object) -> None:
    raise UserError("onnxruntime cannot run it", "")


@pytest.mark.parametrize(
    ("name", "instead", "said"),
    [
        ("seal.compute_sample", fail, "has no test vector: onnxruntime cannot run it"),
        ("seal_check.Timer", Over, "a run of s.onnx takes longer than 120 seconds"),
        ("seal.this_space", lambda *_: Space(None, 10, 0, 0), "of memory, and 0.0 GB are free"),
    ],
)
def test_a_file_that_was_not_run_has_a_checksum_alone(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    instead: object,
    said: str,
) -> None:
    monkeypatch.setattr(f"fewstep.graph.bake.{name}", instead)
    stages, options = list[object](), BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx")
    baked, (file,) = bake(options, progress=lambda *of: stages.append(of))
    assert baked.sample is None and is_whole(file) and said in caplog.text
    assert verify_baked(file).sample == "note: the file has no test vector, so it was not run"
    assert stages == [("test vector", 0, 1), ("test vector", 1, 1)]
    onnx.checker.check_model(onnx.load(file))


def test_a_part_keeps_the_optional_inputs_that_it_reads(tiny_bundle: Path, tmp_path: Path) -> None:
    run, _ = assemble_run(BakeOptions(tiny_bundle, "ddim:3", tmp_path / "run.onnx", guidance=2.0))
    graph, whole = run.graph, split_run(run)
    loop = next(node for node in graph.nodes if node.op == "Loop")
    body = loop.attributes["body"]
    name = next(name for name, array in body.constants.items() if array.dtype == np.float32 and array.ndim > 1)
    weight = body.constants[name]
    inner = replace(body, constants={other: array for other, array in body.constants.items() if other != name})
    nodes = [
        replace(node, attributes={**node.attributes, "body": inner}) if node is loop else node for node in graph.nodes
    ]
    optional = (Value(name, weight.dtype, weight.shape),)
    parts = split_run(replace(run, graph=replace(graph.with_nodes(nodes), optional=optional)))
    assert (
        parts.steps[0].graph.optional == optional and parts.steps[0].constant_inputs == whole.steps[0].constant_inputs
    )
    assert parts.before.outputs == whole.before.outputs and parts.after.inputs == whole.after.inputs
