"""A packed bundle runs like its source, and contains nothing else of it."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

import fewstep.runtime
from fewstep.graph.files import io
from fewstep.graph.files.commit import open_for_update
from fewstep.graph.files.pack import PackOptions, pack
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle, with_bodies
from tests.conftest import with_earlier
from tests.onnx_text import graph_of_text
from tests.refusals import refuses
from tests.runtime.text_bundle import with_companions

INT8 = ("int8-cpu-x86",)


def add_bodies(bundle: Path, weights: dict[str, np.ndarray]) -> None:
    """Add for each name a body v = x + mean of its weights, which are large enough for a separate file."""
    text = "(float[batch, 1, 4, 4] x) => (float[batch, 1, 4, 4] v) { m = ReduceMean <keepdims = 0> (w) v = Add(x, m) }"
    with open_for_update(bundle, must_exist=True) as writer:
        manifest = writer.manifest
        assert manifest is not None
        base, bodies = manifest.bodies["float32"].graph, dict(manifest.bodies)
        for name, array in weights.items():
            file, data = io.store(writer, graph_of_text(text, w=array), name)
            graph = msgspec.structs.replace(base, file=file, inputs=base.inputs[:1], data=data)
            bodies[name] = Body.from_graph(graph, "int8", "cpu-x86")
        writer.commit(msgspec.structs.replace(manifest, bodies=bodies))


def samples(bundle: Path, body: str) -> np.ndarray:
    with fewstep.runtime.load(bundle, body=body) as sampler:
        return sampler.sample("ddim:4", seeds=[0, 1], condition={"class": [0, 2]}, guidance=2.0)


def test_a_packed_bundle_samples_bitwise_as_before_and_holds_nothing_else(tiny_bundle: Path, tmp_path: Path) -> None:
    before = open_bundle(tiny_bundle).manifest
    manifest = pack(PackOptions(tiny_bundle, tmp_path / "device", body=INT8))
    assert set(manifest.bodies) == set(INT8)
    found = {path.relative_to(tmp_path / "device").as_posix() for path in (tmp_path / "device").rglob("*.*")}
    assert found == {"manifest.json", *manifest.files}
    np.testing.assert_array_equal(samples(tmp_path / "device", *INT8), samples(tiny_bundle, *INT8))
    assert open_bundle(tiny_bundle).manifest == before
    assert manifest.provenance.commands[-1] == "fewstep pack BUNDLE -o BUNDLE --body int8-cpu-x86"


def test_bodies_share_the_weights_that_are_the_same(tiny_bundle: Path, tmp_path: Path) -> None:
    array = np.linspace(-1, 1, 4096, dtype=np.float32)
    add_bodies(tiny_bundle, {"a": array, "b": array, "c": array + 1})
    manifest = pack(PackOptions(tiny_bundle, tmp_path / "device", body=("a", "b", "c")))
    data = [manifest.bodies[name].graph.data for name in "abc"]
    assert len(data[0]) == 1 and data[0] == data[1] != data[2]
    for name in "abc":
        np.testing.assert_array_equal(samples(tmp_path / "device", name), samples(tiny_bundle, name))


def test_all_graphs_of_a_body_go_along(tiny_bundle: Path, tmp_path: Path) -> None:
    bodies = open_bundle(tiny_bundle).manifest.bodies
    several = with_earlier(bodies[INT8[0]], bodies["float32"].graph)
    change_bundle(tiny_bundle, bodies={**bodies, INT8[0]: several})
    pack(PackOptions(tiny_bundle, tmp_path / "device", body=INT8))
    np.testing.assert_array_equal(samples(tmp_path / "device", *INT8), samples(tiny_bundle, *INT8))


def test_packing_twice_gives_the_same_files(tiny_bundle: Path, tmp_path: Path) -> None:
    add_bodies(tiny_bundle, {"a": np.arange(4096, dtype=np.float32)})
    first, second = (pack(PackOptions(tiny_bundle, tmp_path / name, body=("a",))) for name in ("one", "two"))
    assert first == second
    again = pack(PackOptions(tmp_path / "one", tmp_path / "three", body=("a",)))
    assert again.files == first.files


def test_what_a_packed_bundle_cannot_do_is_said(tiny_bundle: Path, tmp_path: Path) -> None:
    pack(PackOptions(tiny_bundle, tmp_path / "device", body=INT8))
    with refuses("int8-cpu-x86", "precision int8"):
        fewstep.runtime.load(tmp_path / "device", "float32")
    with pytest.raises(UserError, match=r"or use the bundle that this was packed from \(tiny\)"):
        open_bundle(tmp_path / "device").body("float32")


def test_what_was_measured_of_a_bundle_stays_behind(tiny_bundle: Path, tmp_path: Path) -> None:
    """Each file that a manifest may name is either copied or dropped: none is named but missing."""
    optional = {
        field.name: f"report/{field.name}.json"
        for field in msgspec.structs.fields(Manifest)
        if field.type == str | None and field.name not in ("towards", "grid", "component")
    }
    change_bundle(tiny_bundle, {file: name.encode() for name, file in optional.items()}, **optional)
    manifest = pack(PackOptions(tiny_bundle, tmp_path / "device", body=INT8))
    assert {name for name in optional if getattr(manifest, name) is not None} == {"ranges", "scheduler"}
    assert {"report", "results", "evaluation", "precision", "verification"} <= set(optional)


def test_without_a_choice_the_int8_bodies_for_cpus_are_taken(tiny_bundle: Path, tmp_path: Path) -> None:
    assert set(pack(PackOptions(tiny_bundle, tmp_path / "device")).bodies) == {"int8-cpu-x86"}


@pytest.mark.parametrize(
    ("output", "body", "says"),
    [
        ("device", ("int8-mips",), "has no body 'int8-mips'"),
        ("device", (), "has no int8 body for CPUs; calibrate it first, or choose one of"),
        ("tiny", ("float32",), "is the bundle to copy from"),
    ],
)
def test_what_cannot_be_packed_is_one_line(tiny_bundle: Path, output: str, body: tuple[str, ...], says: str) -> None:
    with_bodies(tiny_bundle, "float32")
    with pytest.raises(UserError, match=says):
        pack(PackOptions(tiny_bundle, tiny_bundle.parent / output, body=body))
    assert not (tiny_bundle.parent / "device").exists()


def test_a_file_without_the_hash_in_its_name_is_refused(tiny_bundle: Path) -> None:
    with_companions(tiny_bundle)  # its tokenizer is graphs/tokenizer.json
    with refuses("the name of file graphs/tokenizer.json lacks the hash", "fewstep export"):
        pack(PackOptions(tiny_bundle, tiny_bundle.parent / "device", body=INT8))
    assert not (tiny_bundle.parent / "device/manifest.json").exists()
