"""A manifest that contradicts itself is refused in one line that names the field."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.bundle.reading import open_bundle
from tests.free_size_bundle import free
from tests.refusals import refuses
from tests.runtime.test_networks import with_expert
from tests.runtime.text_bundle import with_companions

GONE: Any = object()
NOISE, HEIGHT = {"name": "c", "input": "label"}, {"name": "height", "axis": 1, "low": 2, "high": 12}
PORT = {"name": "label", "role": "time", "shape": ["batch"]}
TIMED = {"file": "graphs/prologue.onnx", "inputs": [PORT], "outputs": []}
TINY = [
    ("x_shape", [1, "four", 4], "field x_shape[1]: expected `int`"),
    ("x_shape", [1, -4, 4], "field x_shape: [1, -4, 4]"),
    ("x_shape", [], "field x_shape: []"),
    ("x_shape", [2**20, 2**20, 4], "field x_shape"),
    ("schema", "one", "field schema"),
    ("schema", 0, "field schema"),
    ("prediction", "noise", "field prediction: invalid enum value 'noise'"),
    ("unheard_of", 1, "unknown field `unheard_of`"),
    ("bodies", {}, "field bodies: there is none"),
    ("files", {}, "no sha256"),
    ("ranges", "ranges.safetensors", "no sha256"),
    ("schedule", {"kind": "cosine", "timesteps": 0}, "field schedule.timesteps"),
    ("schedule", {"kind": "cosine", "timesteps": 10**10}, "field schedule.timesteps"),
    ("schedule", {"kind": "linear", "beta_start": 1e-320}, "field schedule.beta_start"),
    ("schedule", {"kind": "linear", "beta_end": 2.0}, "field schedule.beta_end"),
    ("conditions", [NOISE | {"low": 2, "high": 1}], "field conditions[0].low: 2 is above"),
    ("conditions", [NOISE | {"dtype": "uint8", "null": 256}], "field conditions[0].null"),
    ("conditions", [NOISE | {"shape": [2**25]}], "field conditions[0].shape"),
    ("conditions", [NOISE | {"shape": [2]}], "input 'label' is not batch x [2] of int64"),
    ("prologue", None, "the prologue does not return the row 'row'"),
    ("conditioner", TIMED, "its input 'label' has the role 'time'"),
    ("policy", {"observations": 0, "first": 0, "actions": 1}, "observations=0 is less than 1"),
    ("bodies.float32.graphs.0.outputs.0.shape", ["batch", "?", 4, 4], "tensor 'v' has the shape ['batch', '?', 4, 4]"),
    (
        "bodies.float32.graphs.0.outputs.0.role",
        "x",
        "not have exactly one input of role x and one output of role output",
    ),
]
COMPANIONS = [
    ("text.tokens.0.length", 7, "field text: the inputs of its graph are not those that the tokenizers"),
    ("text.tokens.0.length", 0, "field text: tokens[0]: 0 ids"),
    ("text.tokens.0.length", 10**9, "tokens[0]: 1000000000 ids"),
    ("text.tokens.0.pad", -1, "padded with -1"),
    ("text.tokens.0.mask", None, "the inputs of its graph"),
    ("text.tokens.0.tokenizer", "graphs/other.json", "`files` has no sha256 for 'graphs/other.json'"),
    ("text.tokens.0.tokenizer", "../x.json", "`files` has no sha256"),
    ("text.tokens", [], "the inputs of its graph"),
    ("text.graph.outputs", [], "its graph has no outputs"),
    ("text.graph.outputs.0.name", "words", "takes no condition 'words'"),
    ("text.graph.outputs.0.shape", ["batch", 6, 3], "takes no condition 'text' of that shape"),
    ("autoencoder.decoder.inputs.0.shape", ["batch", 2, 4, 4], "its decoder does not take latents"),
    ("autoencoder.decoder.outputs.0.shape", ["batch", 3, 2**20, 2**20], "its decoder returns no image"),
    ("autoencoder.decoder.outputs.0.shape", ["batch", 3, 0, 8], "its decoder returns no image"),
    ("autoencoder.decoder.outputs.0.role", "output", "its decoder returns no image"),
    ("autoencoder.encoder.inputs.0.shape", ["batch", 3, 8, 9], "field autoencoder: its encoder does not take"),
    ("autoencoder.encoder.outputs.0.dtype", "float16", "its encoder does not take"),
    ("conditions.1.null_file", "graphs/null.npy", "`files` has no sha256 for 'graphs/null.npy'"),
    ("conditions.1.default", [1.0, 2.0], "default: it has 2 numbers for the shape [6, 2]"),
    ("conditions.0.default", [1.5], "default"),
]
EXPERTS = [
    ("networks.noisy.until", "0", ".until: expected `float | null`"),
    ("networks.noisy.until", GONE, "missing field `until`"),
    ("networks.noisy.until", float("inf"), "it is missing, which is allowed only for the network light"),
    ("networks.noisy.inputs", {"colour": "label"}, "networks['noisy'].inputs: the manifest has no condition 'colour'"),
    ("networks.noisy.inputs", {}, "networks['noisy'].prologue: no condition feeds the input 'label'"),
    ("networks.noisy.prologue", None, "networks['noisy'].bodies['float32'].graphs[0]: the prologue does not return"),
    ("networks.noisy.bodies", {}, "networks['noisy'].bodies: there is none"),
    ("networks.noisy.heads", 2, "networks['noisy'].bodies['float32'].graphs[0]: tensor 'v' has the shape"),
    ("networks.noisy.more", 1, "unknown field `more`"),
]
SIZES = [
    ("sizes", [HEIGHT | {"low": 3, "multiple": 2}], "sizes: height: low 3 is no"),
    ("sizes", [HEIGHT | {"axis": 7}], "has no axis 7"),
    ("sizes", [HEIGHT | {"name": "batch"}], "a name consists of letters"),
    ("sizes", [HEIGHT], "follows: there is no size 'width'"),
    ("sizes", [], "follows: there is no size 'height'"),
]


def whole(bundle: Path) -> Path:
    return bundle


def edit_manifest(bundle: Path, path: str, value: Any) -> Path:
    """Change the manifest's value at the dotted `path`, or remove it for GONE, and return the bundle."""
    document = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    *parents, last = [int(name) if name.isdigit() else name for name in path.split(".")]
    place = document
    for name in parents:
        place = place[name]
    place.pop(last) if value is GONE else place.update({last: value})
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(document))
    return bundle


@pytest.mark.parametrize(
    ("made", "path", "value", "words"),
    [
        (made, *row)
        for made, rows in ((whole, TINY), (with_companions, COMPANIONS), (with_expert, EXPERTS), (free, SIZES))
        for row in rows
    ],
)
def test_what_contradicts_itself_is_named(
    tiny_bundle: Path, made: Callable[[Path], Path], path: str, value: Any, words: str
) -> None:
    if made is with_companions:
        pytest.importorskip("tokenizers")
    with pytest.raises(UserError) as caught:
        open_bundle(edit_manifest(made(tiny_bundle), path, value))
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.fix


def test_networks_end_one_after_the_other(tiny_bundle: Path) -> None:
    noisy = msgspec.to_builtins(open_bundle(with_expert(tiny_bundle)).manifest.networks["noisy"])
    with refuses(("field networks", "[0.0, 0.0]")):
        open_bundle(edit_manifest(tiny_bundle, "networks.second", noisy))


def test_companions_that_fit_are_whole(tiny_bundle: Path) -> None:
    pytest.importorskip("tokenizers")
    found = verify(VerifyOptions(with_companions(tiny_bundle)))
    assert found.is_whole and found.graphs == 6
