"""A baked file has bitwise the samples of the executor, with onnxruntime's optimizations on."""

import errno
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, islice, product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

import fewstep.runtime
from fewstep.graph.bake.bake import bake
from fewstep.graph.bake.hold import HeldAs
from fewstep.graph.bake.metadata import BakedPort
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.resolve_run import resolve_run
from fewstep.graph.files import io
from fewstep.graph.graph import Node
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.file import encode
from fewstep.plans.grids import trailing
from fewstep.plans.guidance import Branches, Cfg, Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.shaping import Clip, Rescale, Shaping, Threshold
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer
from fewstep.plans.transforms import use_given_noise
from fewstep.runtime import Hold
from fewstep.runtime.bundle.manifest import AutoencoderEntry
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.request import denoiser_facts
from tests import onnx_text
from tests.bundles import change_bundle, content_of, entry
from tests.conftest import with_earlier
from tests.graph.bake.run_baked import open_baked, run_file
from tests.plans.random_plans import random_plans
from tests.refusals import refuses

LABELS = [0, 2, 1, 1, 0]


def written(bundle: Path, name: str, guidance: Guidance | float | None = None, shaping: Shaping | None = None) -> str:
    """Write a compiled plan and return the path."""
    plan = compile_plan(name, denoiser_facts(open_bundle(bundle).manifest), guidance, shaping)
    return as_file(bundle, plan)


def as_file(bundle: Path, plan: Plan) -> str:
    path = bundle.parent / "plan.json"
    path.write_bytes(encode(plan))
    return str(path)


def assert_bitwise(bundle: Path, options: BakeOptions, given: dict[str, np.ndarray] | None = None) -> None:
    """Compare at several batches, or at the fixed one. With a hold a part of the sample is known, some of it by
    shares.
    """
    bake(options)
    rng, kind = np.random.default_rng(0), options.hold
    value = rng.uniform(-1, 1, (5, 1, 4, 4)).astype(np.float32)
    mask = rng.choice([0, 0.25, 1], value.shape).astype(np.float32)
    with fewstep.runtime.load(bundle, options.precision or "float32") as sampler:
        for batch in (1, 2, 5) if options.batch is None else (options.batch,):
            seeds, labels = range(batch), LABELS[:batch]
            part = {name: array[:batch] for name, array in (given or {}).items()}
            hold = Hold(value[:batch], mask[:batch], clean=kind == "clean", fresh=kind == "fresh")
            held = {} if kind == "none" else {"held": value[:batch], "held_mask": mask[:batch]}
            expected = sampler.sample(
                options.plan, seeds, {"class": labels}, options.guidance, given=part, strength=options.start,
                hold=hold if held else None,
            )  # fmt: skip
            found = run_file(options.output, seeds, **{"class": labels}, **part, **held)
            np.testing.assert_array_equal(found, expected)
            if held:
                np.testing.assert_array_equal(found[mask[:batch] == 1], value[:batch][mask[:batch] == 1])


CHOICES: dict[str, list[Any]] = {
    "name": ["ddim:3", "dpmpp_2m:5", "heun:2", "ddim(eta=1):4", "unipc_2:5", "sa_solver:4"],
    "precision": ["float32", "int8"],
    "batch": [None, 2],
    "unroll": [False, True],
    "hold": ["none", "noised", "fresh", "clean"],
    "strength": [None, 0.5],
    "guidance": [None, 2.0, Cfg(2.0, interval=(-1.0, 1.0)), Cfg((1.0, 3.0, 0.0, 2.0))],  # some leave either branch out
    "shaping": [None, Clip(-0.5, 0.75), Threshold(0.9), Rescale(0.7)],
}
DRAWN = 200  # runs, of which the one with the most new pairs is next


def runs() -> Iterator[dict[str, Any]]:
    """Return runs that cover each pair of choices of two kinds. The first are plain, and unrolled."""
    rng, columns = random.Random(0), [range(len(choices)) for choices in CHOICES.values()]
    missing = {
        pair
        for (one, left), (other, right) in combinations(enumerate(columns), 2)
        for pair in product(product([one], left), product([other], right))
    }
    rows = [(name, 0, 0, 1, 0, 0, 0, 0) for name in columns[0]]
    while rows or missing:
        drawn = [rows.pop()] if rows else [tuple(map(rng.choice, columns)) for _ in range(DRAWN)]
        row = max(drawn, key=lambda each: len(missing.intersection(combinations(enumerate(each), 2))))
        missing.difference_update(combinations(enumerate(row), 2))
        yield {kind: choices[place] for (kind, choices), place in zip(CHOICES.items(), row, strict=True)}


@pytest.mark.parametrize("run", [*runs()], ids=lambda run: "-".join(map(str, run.values())))
def test_samples_are_those_of_the_executor(tiny_bundle: Path, tmp_path: Path, run: dict[str, Any]) -> None:
    run = dict(run)
    name, guidance, shaping = (run.pop(each) for each in ("name", "guidance", "shaping"))
    starts_late = run["strength"] is not None  # then the plan is compiled by its name
    guidance = 2.0 if starts_late and isinstance(guidance, Cfg) or isinstance(shaping, Rescale) else guidance
    plan = name if starts_late else written(tiny_bundle, name, guidance, shaping)
    options = BakeOptions(tiny_bundle, plan, tmp_path / "s.onnx", guidance=guidance if starts_late else None, **run)
    image = np.random.default_rng(0).uniform(-1, 1, (5, 1, 4, 4)).astype(np.float32)
    assert_bitwise(tiny_bundle, options, {"image": image} if starts_late else None)
    loops = [node for node in onnx.load(options.output).graph.node if node.op_type == "Loop"]
    assert bool(loops) is not options.unroll
    ports = [(port.name, port.meaning) for port in open_baked(options.output)[1].inputs][-2:]
    assert (ports == [("held", "held"), ("held_mask", "hold")]) is (options.hold != "none")


@pytest.mark.parametrize("start", [{"strength": 0.3, "keep_steps": True}, {"start_noise": 0.5}], ids=str)
def test_all_steps_run_from_an_image(tiny_bundle: Path, tmp_path: Path, start: dict[str, Any]) -> None:
    options = BakeOptions(tiny_bundle, "ddim:4", tmp_path / "s.onnx", **start)
    image = np.random.default_rng(0).uniform(-1, 1, (5, 1, 4, 4)).astype(np.float32)
    assert_bitwise(tiny_bundle, options, {"image": image})
    *_, plan = resolve_run(options)
    assert isinstance(plan, Plan) and len(plan.steps) == 4 and 0 < plan.steps[0].alpha < 1  # type: ignore[operator]


def test_a_plan_with_its_own_steps_keeps_none_from_an_image(tiny_bundle: Path, tmp_path: Path) -> None:
    plan = written(tiny_bundle, "ddim:4", None, None)
    with refuses("own first noise"):
        bake(BakeOptions(tiny_bundle, plan, tmp_path / "s.onnx", start_noise=0.5))
    with refuses("--keep-steps", "--strength"):
        bake(BakeOptions(tiny_bundle, "ddim:4", tmp_path / "s.onnx", keep_steps=True))


@pytest.mark.parametrize("hold", ["noised", "fresh", "clean"])
def test_a_step_may_be_unheld(hold: HeldAs, tiny_bundle: Path, tmp_path: Path) -> None:
    plan = compile_plan("dpmpp_2m:3", denoiser_facts(open_bundle(tiny_bundle).manifest))
    first, *others = plan.steps
    steps = (msgspec.structs.replace(first, unheld=True), *others)
    own = as_file(tiny_bundle, msgspec.structs.replace(plan, name="own:3", steps=steps))
    for unroll in (False, True):
        assert_bitwise(tiny_bundle, BakeOptions(tiny_bundle, own, tmp_path / "s.onnx", unroll=unroll, hold=hold))


@pytest.mark.parametrize("hold", ["noised", "fresh", "clean"])
def test_a_hold_takes_the_noise_that_a_caller_passes(hold: HeldAs, tiny_bundle: Path, tmp_path: Path) -> None:
    plan = use_given_noise(compile_plan("dpmpp_2m:3", denoiser_facts(open_bundle(tiny_bundle).manifest)))
    given = {"noise": np.random.default_rng(1).standard_normal((5, 1, 4, 4)).astype(np.float32)}
    for unroll in (False, True):
        options = BakeOptions(tiny_bundle, as_file(tiny_bundle, plan), tmp_path / "s.onnx", unroll=unroll, hold=hold)
        assert_bitwise(tiny_bundle, options, given)


def test_each_step_may_have_a_threshold_of_its_own(tiny_bundle: Path, tmp_path: Path) -> None:
    plan = compile_plan("ddim:3", denoiser_facts(open_bundle(tiny_bundle).manifest), None, Threshold(0.5))
    kinds = [Threshold(0.2, 3), Threshold(0.5, 3), Threshold(0.9)]
    steps = [msgspec.structs.replace(step, shaping=kind) for step, kind in zip(plan.steps, kinds, strict=True)]
    own = as_file(tiny_bundle, msgspec.structs.replace(plan, name="own:3", steps=tuple(steps)))
    for unroll in (False, True):
        assert_bitwise(tiny_bundle, BakeOptions(tiny_bundle, own, tmp_path / "s.onnx", unroll=unroll))


def test_an_image_goes_in_and_a_picture_comes_out(tiny_bundle: Path, tmp_path: Path) -> None:
    """With a decoder, here the negative, the file has an input `image` and an output of another name."""
    graph = onnx_text.graph_of_text("(float[batch, 1, 4, 4] z) => (float[batch, 1, 4, 4] image) { image = Neg(z) }")
    image = np.random.default_rng(0).uniform(-1, 1, (2, 1, 4, 4)).astype(np.float32)
    latents, whole = (BakeOptions(tiny_bundle, "ddim:4", tmp_path / f"{n}.onnx", strength=0.5) for n in ("l", "p"))
    bake(replace(latents, latents=True))
    file = "graphs/decoder.onnx"
    autoencoder = AutoencoderEntry(entry(file, graph, z="latent"))
    change_bundle(tiny_bundle, {file: content_of(graph)}, autoencoder=autoencoder)
    made, _ = bake(whole)
    assert [port.name for port in made.inputs] == ["noise", "class", "image"] and made.output.name == "picture"
    given = {"class": LABELS[:2], "image": image}
    expected = -run_file(latents.output, range(2), **given)
    np.testing.assert_array_equal(run_file(whole.output, range(2), **given), expected)


@pytest.mark.parametrize(
    ("name", "others"),
    [("sample", ("condition", "sample")), ("noise", ("noise", "condition")), ("draws", ("draws", "condition"))],
)
def test_a_condition_with_the_name_of_another_port_is_refused(
    tiny_bundle: Path, tmp_path: Path, name: str, others: tuple[str, str]
) -> None:
    (condition,) = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(msgspec.structs.replace(condition, name=name),))
    options = BakeOptions(tiny_bundle, "ddim(eta=1):3", tmp_path / "s.onnx")
    with refuses((f"'{name}'", *(f"its {port}" for port in others)), f"a name other than '{name}'"):
        bake(options)
    assert not options.output.exists()


def scale_by_a_large_table(bundle: Path, factor: float) -> None:
    """Let the body read the factor of x from a constant large enough for a weight file."""
    body = io.load(bundle / "graphs/body.onnx")
    table = {"table": np.full(2048, factor, np.float32), "place": np.array(0, np.int64)}
    nodes = [node for node in body.nodes if node.outputs != ("half",)]
    rest = {name: value for name, value in body.constants.items() if name != "half"}
    made = replace(body, nodes=(Node("Gather", ("table", "place"), ("half",)), *nodes), constants=rest | table)
    change_bundle(bundle, {"graphs/body.onnx": content_of(made)})


def test_a_bake_that_fails_leaves_the_previous_file_with_its_weights(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewstep.graph.bake.write.SEPARATE_FILE_ABOVE", -1)  # so that weights are in a separate file
    scale_by_a_large_table(tiny_bundle, 0.5)
    options = BakeOptions(tiny_bundle, "ddim:3", tmp_path / "s.onnx")
    _, (graph, previous) = bake(options)
    before = run_file(graph, range(2), **{"class": LABELS[:2]})
    scale_by_a_large_table(tiny_bundle, 0.25)
    real = os.replace

    def fails(source: Path, target: Path) -> None:
        if target == graph:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fails)
        with refuses(("s.onnx", "No space left")):
            bake(options)
    np.testing.assert_array_equal(run_file(graph, range(2), **{"class": LABELS[:2]}), before)
    _, (_, data) = bake(options)
    assert data != previous and data.exists() and not previous.exists()
    assert not np.array_equal(run_file(graph, range(2), **{"class": LABELS[:2]}), before)
    bake(replace(options, one_file=True))
    assert not list(tmp_path.glob("*.data"))


def test_coefficients_that_are_tensors_are_looked_up(tiny_bundle: Path, tmp_path: Path) -> None:
    gain, bias = np.linspace(-1, 1, 16).reshape(1, 4, 4), np.full((4, 4), 0.25)

    def solver(trace: Tracer, times: list[Time]) -> Lin:
        x = trace.start()
        for number, s in enumerate(times[:-1]):
            x, x0 = trace.denoise(x, s)
            x = (number + 1) * gain * x + 0.5 * x0 + bias * trace.ones()
        return x

    facts = denoiser_facts(open_bundle(tiny_bundle).manifest)
    plan = trace_plan("test:3", solver, trailing(NoiseSchedule(facts.schedule), 3), facts, guidance=2.0)
    for unroll in (False, True):
        options = BakeOptions(tiny_bundle, as_file(tiny_bundle, plan), tmp_path / "s.onnx", unroll=unroll)
        assert_bitwise(tiny_bundle, options)


def test_the_file_says_what_it_holds(tiny_bundle: Path, tmp_path: Path) -> None:
    made, files = bake(BakeOptions(tiny_bundle, "ddim(eta=1):3", tmp_path / "s.onnx", "int8", guidance=2.0, batch=1))
    session, baked = open_baked(tmp_path / "s.onnx")
    assert baked == made and files == (tmp_path / "s.onnx",)
    assert (baked.model, baked.plan, baked.guidance, baked.evaluations) == ("tiny", "ddim(eta=1):3", "2", 3)
    assert (baked.precision, baked.target, baked.range, baked.draws) == ("int8", "cpu-x86", (-1.0, 1.0), (1, 2))
    assert baked.inputs == (
        BakedPort("noise", "noise", (1, 1, 4, 4), "float32"),
        BakedPort("draws", "draws", (2, 1, 1, 4, 4), "float32"),
        BakedPort("class", "condition", (1,), "int64"),
    )
    assert {value.name: tuple(value.shape) for value in session.get_inputs()} == {p.name: p.shape for p in baked.inputs}
    onnx.checker.check_model(onnx.load(tmp_path / "s.onnx"), full_check=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plan": "dpmpp_2m:4", "output": Path("s.txt")}, "is not an ONNX file"),
        ({"batch": 0}, "batch 0 is not a number of samples"),
        ({"output": Path("missing/s.onnx")}, "missing/s.onnx cannot be written"),
        ({"precision": "int4"}, "unknown precision"),
        ({"precision": "int8", "body": "float32"}, "body 'float32' is float32, not int8; omit precision, or give"),
        ({"precision": "float32", "body": "int8-cpu-x86"}, "body 'int8-cpu-x86' is int8, not float32"),
    ],
    ids=["suffix", "batch", "folder", "precision", "float32 body", "int8 body"],
)
def test_what_cannot_be_is_said_in_one_line(tiny_bundle: Path, tmp_path: Path, change: dict, message: str) -> None:
    if "output" in change:
        change = {**change, "output": tmp_path / change["output"]}
    options = replace(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx"), **change)
    with pytest.raises(UserError, match=message):
        bake(options)
    assert not list(tmp_path.glob("**/*.onnx.data")) and not (tmp_path / "s.onnx").exists()


@pytest.mark.parametrize("name", ["x.onnx", "graphs/x.onnx"])
def test_a_new_file_in_a_bundle_is_refused(tiny_bundle: Path, name: str) -> None:
    file = tiny_bundle / name
    file.parent.mkdir(exist_ok=True)
    with refuses(("x.onnx", "in the bundle"), "write elsewhere"):
        bake(BakeOptions(tiny_bundle, "ddim:2", file))
    assert not file.exists()


def test_a_folder_with_the_manifest_of_a_web_page_is_no_bundle(tiny_bundle: Path, tmp_path: Path) -> None:
    page = tmp_path / "page"
    (page / "models").mkdir(parents=True)
    (page / "manifest.json").write_text('{"name": "page", "icons": []}')
    bake(BakeOptions(tiny_bundle, "ddim:2", page / "models" / "x.onnx"))
    assert (page / "models" / "x.onnx").is_file()


def test_a_bundle_is_no_place_for_what_is_baked_from_it(tiny_bundle: Path) -> None:
    body = tiny_bundle / open_bundle(tiny_bundle).manifest.bodies["float32"].graph.file
    content = body.read_bytes()
    with pytest.raises(UserError, match="is a file of the bundle"):
        bake(BakeOptions(tiny_bundle, "ddim:2", body))
    assert body.read_bytes() == content


@pytest.mark.parametrize(("body", "precision"), [("int8-cpu-x86", "int8"), ("float32", "float32"), (None, "float32")])
def test_a_body_implies_its_precision(tiny_bundle: Path, tmp_path: Path, body: str | None, precision: str) -> None:
    made, _ = bake(BakeOptions(tiny_bundle, "ddim:2", tmp_path / "s.onnx", body=body))
    assert made.precision == precision


@pytest.mark.parametrize("unroll", [False, True])
def test_no_step_needs_all_branches(tiny_bundle: Path, tmp_path: Path, unroll: bool) -> None:
    plan = written(tiny_bundle, "ddim:3", Cfg((0.0, 1.0)))
    assert_bitwise(tiny_bundle, BakeOptions(tiny_bundle, plan, tmp_path / "s.onnx", unroll=unroll))


def test_a_branch_that_has_no_form_is_named(tiny_bundle: Path, tmp_path: Path) -> None:
    branched = written(tiny_bundle, "ddim:2", Branches({"cond": 2.0, "other": -1.0}))
    with pytest.raises(UserError, match="branch 'other', whose conditions only the caller knows"):
        bake(BakeOptions(tiny_bundle, branched, tmp_path / "s.onnx"))


def test_guidance_without_a_null_value_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    plan = written(tiny_bundle, "ddim:2", 2.0)
    (label,) = open_bundle(tiny_bundle).manifest.conditions
    change_bundle(tiny_bundle, conditions=(msgspec.structs.replace(label, null=None),))
    with pytest.raises(UserError, match="condition 'class' has no null value"):
        bake(BakeOptions(tiny_bundle, plan, tmp_path / "s.onnx"))


@pytest.mark.parametrize("unroll", [False, True])
def test_graphs_of_a_precision_map_run_their_steps(tiny_bundle: Path, tmp_path: Path, unroll: bool) -> None:
    """The first range group runs the float graph, the second the body's own, each in a Loop."""
    manifest = open_bundle(tiny_bundle).manifest
    several = with_earlier(manifest.bodies["int8-cpu-x86"], manifest.bodies["float32"].graph)
    change_bundle(tiny_bundle, bodies={**manifest.bodies, "int8-cpu-x86": several})
    options = BakeOptions(tiny_bundle, "dpmpp_2m:6", tmp_path / "s.onnx", "int8", guidance=2.0, unroll=unroll)
    assert_bitwise(tiny_bundle, options)
    loops = [node for node in onnx.load(options.output).graph.node if node.op_type == "Loop"]
    assert len(loops) == (0 if unroll else 2)


def test_random_plans_bake_to_the_same_bits(tiny_bundle: Path, tmp_path: Path) -> None:
    """Any solver and grid, with a guidance and a shaping, looped and unrolled."""
    facts = denoiser_facts(open_bundle(tiny_bundle).manifest)
    for number, plan in enumerate(islice(random_plans(facts, seed=1), 6)):
        file = as_file(tiny_bundle, plan)
        assert_bitwise(tiny_bundle, BakeOptions(tiny_bundle, file, tmp_path / "s.onnx", unroll=number % 2 == 1))
