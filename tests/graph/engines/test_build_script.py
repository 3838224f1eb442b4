"""`fewstep build --script`: commands of trtexec and Polygraphy, written without either installed."""

import re
import shlex
import subprocess
from pathlib import Path

import msgspec
import pytest

from fewstep.cli.main import main
from fewstep.graph.engines.build import build_script
from fewstep.graph.engines.build_options import BuildOptions
from fewstep.graph.engines.build_script import script
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.bundles import change_bundle
from tests.refusals import refuses
from tests.runtime.test_networks import with_expert


@pytest.fixture
def bundle(tiny_bundle: Path) -> Path:
    """A bundle with a body for TensorRT, in two groups."""
    bodies = open_bundle(tiny_bundle).manifest.bodies
    own = msgspec.structs.replace(bodies["int8-cpu-x86"], target="tensorrt")
    return change_bundle(tiny_bundle, bodies={**bodies, "int8-tensorrt": own})


def commands(text: str) -> list[list[str]]:
    """Return the commands of the tools, split as a shell does."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if re.match("trtexec|polygraphy", line)]


def test_each_graph_is_built_and_compared(bundle: Path) -> None:
    found = commands(build_script(BuildOptions(bundle, "tensorrt", opt_batch="2", max_batch="8", workspace=512)))
    assert [(line[0], Path(re.sub("^--onnx=", "", line[1 if line[0] == "trtexec" else 2])).name) for line in found] == [
        ("trtexec", "prologue.onnx"),
        ("polygraphy", "prologue.onnx"),
        ("trtexec", "int8.onnx"),
        ("polygraphy", "int8.onnx"),
    ]
    assert found[2][2:] == [
        "--saveEngine=by_hand/int8-tensorrt.engine",
        "--stronglyTyped",
        "--noTF32",
        "--skipInference",
        "--minShapes=x:1x1x4x4,row:1x1,group:1",
        "--optShapes=x:2x1x4x4,row:2x1,group:1",
        "--maxShapes=x:8x1x4x4,row:8x1,group:1",
        "--memPoolSize=workspace:512M",
    ]
    assert found[3][found[3].index("--input-shapes") :] == [
        *("--input-shapes", "x:[2,1,4,4]", "row:[2,1]", "group:[1]", "--val-range", "group:[0,1]"),
        *("--pool-limit", "workspace:512M", "--atol", "0.05", "--rtol", "0.05"),
    ]
    assert found[1][found[1].index("--val-range") + 1] == "label:[0,2]"


def test_each_network_has_commands_of_its_own(bundle: Path) -> None:
    with_expert(bundle)
    lines = commands(build_script(BuildOptions(bundle, "tensorrt")))
    engines = [line[2].removeprefix("--saveEngine=by_hand/") for line in lines if line[0] == "trtexec"]
    assert engines == ["noisy-prologue.engine", "noisy-int8-tensorrt.engine", "prologue.engine", "int8-tensorrt.engine"]
    tolerances = [line[line.index("--atol") + 1] for line in lines if line[0] == "polygraphy"]
    assert tolerances == ["0.0001", "0.05"] * 2


def test_flags_of_the_device_are_passed_on(bundle: Path) -> None:
    found = commands(build_script(BuildOptions(bundle, "tensorrt", version_compatible=True)))
    assert "--versionCompatible" in found[2]
    body = open_bundle(bundle).manifest.bodies["int8-tensorrt"]
    (line, _) = commands(script({"body": body.graph}, body, (), {"batch": (2, 2, 2)}, {"dla": 1}))
    assert {"--useDLACore=1", "--allowGPUFallback"} <= set(line)


def test_the_script_is_one_that_a_shell_reads(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "engines.sh"
    assert main(["build", str(bundle), "--backend", "tensorrt", "--script", str(path)]) == 0
    subprocess.run(["bash", "-n", path], check=True)
    assert f"{path}: run it in {bundle}" in capsys.readouterr().out


def test_what_has_no_commands_is_named(bundle: Path) -> None:
    with refuses("tensorrt-rtx", "--backend tensorrt"):
        build_script(BuildOptions(bundle))
    with pytest.raises(UserError, match="has no body 'float16'"):
        build_script(BuildOptions(bundle, "tensorrt", precision="float16"))
