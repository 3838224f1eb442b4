"""A backbone and a head's whole plan in one file have the samples of a loop by hand."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

import fewstep.runtime
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.seal_check import compute_sample
from fewstep.plans.errors import UserError
from fewstep.plans.noise import normal
from tests.graph.bake.run_baked import open_baked
from tests.onnx_text import parse_graph
from tests.refusals import refuses

ROUNDS, SHAPE = 4, (1, 4, 4)
OUTPUTS = ("class", "next_total")


INPUTS = ("x", "number", "carried_total", "voice")
ROW = "float[batch]"
PORTS = {"x": "float[batch, 1, 4, 4]", "number": "int64", "carried_total": ROW, "voice": ROW}
PORTS |= {"class": "int64[batch]", "next_total": ROW, "size": ROW}


def backbone(file: Path, outputs: tuple[str, ...] = OUTPUTS, opset: int = 18, **changed: str) -> Path:
    """Return the class of a round: an integer that depends on the previous sample, on a carried sum, on the number
    of the round and on a constant `voice`. `changed` replaces types and shapes of tensors.
    """
    ports = {**PORTS, **changed}
    given, made = (", ".join(f"{ports[name]} {name}" for name in names) for names in (INPUTS, outputs))
    text = f"""backbone ({given}) => ({made}) {{
        sum = ReduceSum<keepdims=0>(x, axes) round = Cast<to=1>(number)
        next_total = Sum(sum, carried_total, voice, round)
        size = Abs(next_total) steps = Cast<to=7>(size) class = Mod(steps, labels)
    }}"""
    onnx.save(parse_graph(text, opset, axes=np.int64([1, 2, 3]), labels=np.int64(3)), file)
    return file


def by_hand(bundle: Path, file: Path, seeds: np.ndarray, voice: np.ndarray, options: BakeOptions):
    """Return samples [rounds, B, ...] of seeds [rounds, B], their classes, and the carried sum."""
    session, samples, classes = ort.InferenceSession(file), [], []
    x, total = np.zeros((len(voice), *SHAPE), np.float32), np.zeros(len(voice), np.float32)
    with fewstep.runtime.load(bundle, options.precision or "float32") as sampler:
        for number, row in enumerate(seeds.tolist()):
            fed = {"x": x, "number": np.array(number), "carried_total": total, "voice": voice}
            label, total = session.run(["class", "next_total"], fed)
            x = sampler.sample(options.plan, row, {"class": label}, options.guidance)
            samples.append(x)
            classes.append(label)
    return np.stack(samples), np.stack(classes), total


@pytest.mark.parametrize("of", [{"plan": "dpmpp_2m:3"}, {"plan": "ddim(eta=1):3", "guidance": 2.0}], ids=str)
@pytest.mark.parametrize(
    "form", [{}, {"precision": "int8", "batch": 2}, {"precision": "int8", "unroll": True}], ids=lambda form: str(form)
)
def test_rounds_are_those_of_a_loop_by_hand(tiny_bundle: Path, tmp_path: Path, of: dict, form: dict) -> None:
    file = backbone(tmp_path / "backbone.onnx")
    options = BakeOptions(tiny_bundle, output=tmp_path / "s.onnx", **{"precision": "float32", **of, **form})
    baked, _ = bake(replace(options, around=(f"backbone:{file}",)))
    seeds, voice = np.arange(2 * ROUNDS).reshape(ROUNDS, 2), np.array([0.3, 7.0], np.float32)
    expected, classes, total = by_hand(tiny_bundle, file, seeds, voice, options)
    assert len({*classes.ravel()}) > 1
    drawn = lambda number: np.array([[normal(each, number, SHAPE) for each in row] for row in seeds.tolist()])  # noqa: E731
    fed = {"noise": drawn(0), "voice": voice, "x": np.zeros_like(expected[0]), "carried_total": np.zeros_like(voice)}
    fed |= {"draws": np.stack([drawn(number) for number in baked.draws])} if baked.draws else {}
    session, _ = open_baked(options.output)
    sample, left = session.run(["sample", "next_total"], fed)
    np.testing.assert_array_equal(sample, expected)
    np.testing.assert_array_equal(left, total)
    assert compute_sample(options.output, baked).shape == (2, options.batch or 1, *SHAPE)  # of the test vector


def test_a_file_goes_on_where_another_call_ended(tiny_bundle: Path, tmp_path: Path) -> None:
    file, output = backbone(tmp_path / "backbone.onnx"), tmp_path / "s.onnx"
    bake(BakeOptions(tiny_bundle, "ddim:2", output, around=(f"backbone:{file}",)))
    session, _ = open_baked(output)
    noise, voice = np.random.default_rng(0).standard_normal((5, 1, *SHAPE), np.float32), np.ones(1, np.float32)
    begin = {"x": np.zeros((1, *SHAPE), np.float32), "carried_total": np.zeros(1, np.float32)}
    whole, end = session.run(["sample", "next_total"], begin | {"voice": voice, "noise": noise})
    first, total = session.run(["sample", "next_total"], begin | {"voice": voice, "noise": noise[:2]})
    left = {"x": first[-1], "carried_total": total, "voice": voice + 2}  # `number` begins again
    second, last = session.run(["sample", "next_total"], left | {"noise": noise[2:]})
    np.testing.assert_array_equal(np.concatenate([first, second]), whole)
    np.testing.assert_allclose(last, end, rtol=1e-5)
    assert np.abs(np.diff(whole, axis=0)).max((1, 2, 3, 4)).min() > 0.1


OTHER_TOTAL = "'next_total' is float32 ['batch']; return int64 ['batch']"


@pytest.mark.parametrize(
    ("outputs", "changed", "words"),
    [
        (("class",), {}, "the backbone takes 'carried_total', and has no 'next_total'"),
        (("size", "next_total"), {}, "the backbone returns size"),
        (("class", "class", "next_total"), {}, "two outputs of the backbone have the name 'class'"),
        (OUTPUTS, {"x": "float[batch, 1, 5, 4]"}, "'x' is float32 ['batch', 1, 5, 4]; take"),
        (OUTPUTS, {"number": "int64[1]"}, "'number' is int64 [1]; take int64 []"),
        (OUTPUTS, {"carried_total": "int64[batch]"}, OTHER_TOTAL),
        (OUTPUTS, {"class": "int64[2]"}, "'class' is int64 [2]; return int64 ['batch']"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(
    tiny_bundle: Path, tmp_path: Path, outputs: tuple[str, ...], changed: dict[str, str], words: str
) -> None:
    file = backbone(tmp_path / "backbone.onnx", outputs, **changed)
    with pytest.raises(UserError, match=re.escape(words)):
        bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx", around=(f"backbone:{file}",)))
    assert not (tmp_path / "s.onnx").exists()


@pytest.mark.parametrize(
    ("op", "domain", "opset", "words"),
    [
        ("Not", "", 18, "not a valid ONNX graph: .*'tensor\\(float\\)'.* correct the operation .* opset 20"),
        ("Absolute", "", 20, "the backbone is not a valid ONNX graph: .* No Op registered for Absolute"),
        ("Absolute", "", 18, "backbone.onnx is not a valid ONNX graph: No Op registered for Absolute"),
        ("Absolute", "com.engine", 18, None),
    ],
)
def test_a_backbone_that_breaks_the_rules_of_onnx_is_refused_before_a_file_is_written(
    tiny_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    op: str,
    domain: str,
    opset: int,
    words: str | None,
) -> None:
    """Not so an operation of another engine: the file then has no test vector, and a warning says so."""
    file, output = backbone(tmp_path / "backbone.onnx", opset=opset), tmp_path / "s.onnx"
    model = onnx.load(file)
    (node,) = (node for node in model.graph.node if node.op_type == "Abs")
    node.op_type, node.domain = op, domain
    model.opset_import.extend([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(model, file)
    if words is None:
        baked, _ = bake(BakeOptions(tiny_bundle, "ddim:2", output, around=(f"backbone:{file}",)))
        assert baked.sample is None and "com.engine:Absolute(-1) is not a registered function/op" in caplog.text
        return
    monkeypatch.setattr("fewstep.graph.bake.write.write_run", None)
    with pytest.raises(UserError, match=words):
        bake(BakeOptions(tiny_bundle, "ddim:2", output, around=(f"backbone:{file}",)))
    assert not output.exists()


def test_a_file_that_is_no_backbone_is_one_line(tiny_bundle: Path, tmp_path: Path) -> None:
    file = tmp_path / "backbone.onnx"
    with refuses(str(file), ".onnx file of the backbone"):
        bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx", around=(f"backbone:{file}",)))
    with pytest.raises(UserError, match=f"{tmp_path} is a folder"):
        bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx", around=(f"backbone:{tmp_path}",)))
    content = backbone(file).read_bytes()
    with refuses(str(file), "give the output another name"):
        bake(BakeOptions(tiny_bundle, "ddim:2", file, around=(f"backbone:{file}",)))
    assert file.read_bytes() == content
