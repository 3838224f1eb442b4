"""The distribution is complete: packages, type markers, pins, weights, commands."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
from setuptools import find_packages

from tests.packages import PACKAGES, module_files, toml

ROOT = Path(__file__).parent.parent
CHECK = ROOT / ".ci/check_wheel.py"
PROJECT: dict[str, Any] = toml(ROOT / "pyproject.toml")


def normalize(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement.strip())[0]).lower()


def test_every_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for path in module_files()}
    assert len(folders) > 40
    assert [folder for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_setuptools_finds_the_typed_packages() -> None:
    finds = re.findall(r"find_packages\(exclude=(\[.*\])\)", (ROOT / "setup.py").read_text())
    found = find_packages(str(ROOT), exclude=json.loads(finds[0]))
    assert sorted({name.partition(".")[0] for name in found}) == list(PACKAGES)


def test_the_root_has_no_stray_file() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this folder is no clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {path for path in listed.split("\0") if path and "/" not in path}
    documents = {"README.md", "CHANGELOG.md", "LICENSE"}
    assert files == documents | {"pyproject.toml", "setup.py", ".gitignore", ".git-blame-ignore-revs"}


def test_the_weights_are_shipped_and_small() -> None:
    weights = ROOT / "models/fashion_mnist/fashion_mnist.safetensors"
    assert weights.stat().st_size <= 8_000_000
    assert (ROOT / "models/fashion_mnist/card.md").is_file()


def test_every_requirement_is_pinned() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    required = {normalize(each) for group in (PROJECT["project"]["dependencies"], *extras.values()) for each in group}
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    pinned = {normalize(line) for line in lines if "==" in line and not line.startswith("#")}
    untested = {normalize(each) for each in extras["gpu"]} | {"tensorrt"}  # they need a GPU, which no test has
    assert required - {"fewstep"} - untested <= pinned


HASHED = sorted((ROOT / ".ci/hashed").glob("*.txt"))


def versions_with_hashes(file: Path) -> dict[str, str]:
    """Return the version of each package of a file of .ci/hashed, each with hashes."""
    entries = re.findall(r"^([\w.-]+)==(\S+).*((?:\n    --hash=\S+(?: \\\\)?)*)", file.read_text(), re.MULTILINE)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", hashes) for _, _, hashes in entries), file.name
    assert len(entries) == sum("==" in line for line in file.read_text().splitlines())
    return {normalize(name): version for name, version, _ in entries}


@pytest.mark.parametrize("file", HASHED, ids=lambda path: path.stem)
def test_hashed_versions_are_those_that_are_tested(file: Path) -> None:
    lines = [line.partition(";")[0] for line in (ROOT / ".ci/constraints.txt").read_text().splitlines()]
    tested = {normalize(line): line.partition("==")[2].strip() for line in lines if "==" in line}
    differing = {
        name: version for name, version in versions_with_hashes(file).items() if tested.get(name, version) != version
    }
    assert differing == {}, "run .ci/hashes"


def test_the_hashed_files_have_what_the_extras_ask_for() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    device = {normalize(each) for each in (*PROJECT["project"]["dependencies"], *extras["cpu"])}
    assert device <= set(versions_with_hashes(ROOT / ".ci/hashed/cpu.txt"))
    names = re.findall(r"\w[\w-]*", extras["test"][0].partition("[")[2])
    asked = {normalize(each) for extra in names for each in extras[extra]} | {normalize(x) for x in extras["test"]}
    assert asked - set(versions_with_hashes(ROOT / ".ci/hashed/test.txt")) == {"torch", "fewstep"}


@pytest.mark.parametrize("workflow", sorted((ROOT / ".github/workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_actions_are_pinned_by_commit(workflow: Path) -> None:
    """A tag can be moved. The comment names the tag."""
    used = re.findall(r"uses: (.*)$", workflow.read_text(), re.MULTILINE)
    assert used
    assert [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v[\d.]+", each)] == []


def test_a_release_is_uploaded_without_a_token() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert (
        text.count("gh-action-pypi-publish") == text.count("id-token: write") == text.count("attestations: true") == 2
    )
    assert "secrets." not in text and "password" not in text


@pytest.mark.parametrize("file", sorted((ROOT / ".ci/containers").glob("*.Dockerfile")), ids=lambda path: path.name)
def test_a_container_file_asks_for_what_there_is(file: Path) -> None:
    """None has been built, and it says so. Its extras, files and verbs exist."""
    text = file.read_text()
    assert "Unverified" in text.splitlines()[3]
    asked = [
        extra for group in re.findall(r"(?:fewstep-\*\.whl\)\[|EXTRAS=)([\w,-]+)", text) for extra in group.split(",")
    ]
    assert "--find-links" not in text  # the name on an index is anybody's
    assert asked and set(asked) <= {*PROJECT["project"]["optional-dependencies"]}
    for source in re.findall(r"^COPY (\S+) /wheels/$", text, re.MULTILINE):
        assert (ROOT / source).is_file()
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000"]


JETSON_PACKAGE = ROOT / ".ci/containers/fewstep"


def test_the_package_of_jetson_containers_has_what_its_header_names() -> None:
    """jetson-containers reads a YAML header between two lines of dashes."""
    first, *lines = (JETSON_PACKAGE / "Dockerfile").read_text().splitlines()
    header = lines[: lines.index("#---")]
    fields = dict(line.removeprefix("# ").split(": ", 1) for line in header)
    assert first == "#---" and fields["name"] == JETSON_PACKAGE.name
    assert (JETSON_PACKAGE / fields["test"]).is_file() and (JETSON_PACKAGE / fields["docs"]).is_file()
    # TensorRT is a part of cudastack:standard: jetson-containers has no package of that name.
    depends = fields["depends"].strip("[]").replace("'", "").split(", ")
    assert depends == ["python", "numpy", "onnx", "onnxruntime", "cudastack:standard", "cuda-python"]
    (extras,) = re.findall(r"fewstep-\*\.whl\)\[([\w,]+)\]", "\n".join(lines))
    asked = [each for extra in extras.split(",") for each in PROJECT["project"]["optional-dependencies"][extra]]
    assert not any(each.startswith("onnxruntime") for each in asked)  # it would replace onnxruntime-gpu's files


@pytest.mark.slow
def test_the_test_of_the_jetson_package_passes_on_a_cpu() -> None:
    done = subprocess.run([sys.executable, JETSON_PACKAGE / "test.py"], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "fewstep: ok"), done.stderr


def test_on_arm_tensorrt_is_left_to_the_system() -> None:
    (pypi,) = [each for each in PROJECT["project"]["optional-dependencies"]["tensorrt"] if each.startswith("tensorrt")]
    assert re.findall(r"platform_machine == '(\w+)'", pypi) == ["x86_64", "AMD64"]


def test_the_runtime_asks_for_three_packages() -> None:
    assert {normalize(each) for each in PROJECT["project"]["dependencies"]} == {"numpy", "msgspec", "safetensors"}


def test_the_readme_sets_up_with_two_commands_each() -> None:
    page = (ROOT / "README.md").read_text()
    commands = re.findall(r"^    (pip install .*)$", page, re.MULTILINE)
    assert len(commands) == 2
    assert f"\n\n    {commands[0]}\n    fewstep demo\n\n" in page  # to a first result
    assert commands[1].count("&&") == 1 and "pytest" in commands[1]  # to the tests; `.ci/run` reads this line


def floors() -> dict[str, str]:
    """Return the oldest version of each requirement of the runtime and the command line."""
    extras = PROJECT["project"]["optional-dependencies"]
    required = (*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["cli"])
    return {normalize(each): each.partition(">=")[2].partition(";")[0].strip() for each in required}


def test_the_oldest_versions_that_are_tested_are_those_that_are_allowed() -> None:
    lines = (ROOT / ".ci/constraints-oldest.txt").read_text().splitlines()
    oldest = {normalize(line): line.partition("==")[2] for line in lines if "==" in line}
    for name, floor in floors().items():
        assert oldest[name].removesuffix(".0").startswith(floor.removesuffix(".0")), name


def wheel(path: Path, **changed: bytes | None) -> Path:
    """Return the parts of a wheel that the check of wheels reads, with some files changed or left out."""
    graph = b"a graph"
    ready = json.dumps({"files": {"graphs/g.onnx": hashlib.sha256(graph).hexdigest()}}).encode()
    content: dict[str, bytes | None] = {f"fewstep/{folder}/py.typed": b"" for folder in PACKAGES}
    content |= {
        "fewstep/models/fashion_mnist/fashion_mnist.safetensors": b"weights",
        "fewstep/measure/distances/extractors/cifar10-cnn.onnx": b"graph",
        "fewstep/measure/distances/extractors/fashion-mnist-cnn.onnx": b"graph",
        "fewstep/models/fashion_mnist/ready/manifest.json": ready,
        "fewstep/models/fashion_mnist/ready/graphs/g.onnx": graph,
        "fewstep-0.dist-info/METADATA": b"",
        **changed,
    }
    with ZipFile(path, "w") as made:
        for name, data in content.items():
            if data is not None:
                made.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({}, ""),
        ({"fewstep/runtime/fast.so": b""}, "fewstep/runtime/fast.so is no part of fewstep"),
        ({"tests/conftest.py": b""}, "tests/conftest.py is no part of fewstep"),
        ({"fewstep/cli/py.typed": None}, "fewstep/cli has no py.typed"),
        ({"fewstep/models/cifar10/cifar10.safetensors": bytes(22_000_000)}, "bytes, more than 22000000"),
        ({"fewstep/models/fashion_mnist/fashion_mnist.safetensors": None}, "fashion_mnist.safetensors is missing"),
        ({"fewstep/models/fashion_mnist/ready/graphs/g.onnx": b"other"}, "g.onnx is not what the manifest says"),
        ({"fewstep/models/fashion_mnist/ready/graphs/h.onnx": b""}, "h.onnx is left over"),
    ],
)
def test_a_wheel_that_lacks_or_has_too_much_is_refused(
    tmp_path: Path, changed: dict[str, bytes | None], named: str
) -> None:
    made = wheel(tmp_path / "fewstep-0-py3-none-any.whl", **changed)
    done = subprocess.run([sys.executable, str(CHECK), str(made)], capture_output=True, text=True)
    assert (done.returncode, named in done.stderr) == (int(bool(named)), True)


def test_a_wheel_for_one_platform_is_refused(tmp_path: Path) -> None:
    made = wheel(tmp_path / "fewstep-0-cp311-cp311-linux_x86_64.whl")
    done = subprocess.run([sys.executable, str(CHECK), str(made)], capture_output=True, text=True)
    assert done.returncode == 1 and "is not pure Python" in done.stderr


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A repository with the script of a release, and a version without a date in the changelog."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci/release", tmp_path / ".ci/release")
    (tmp_path / "pyproject.toml").write_text('version = "0.1.0"\n')
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n")
    for name, code in (("whole", 0), ("bare", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    name = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*name, "commit", "-qm", "all"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "python", "code", "said"),
    [
        (["--help"], "bare", 0, "Builds and checks what a release uploads: .ci/release FOLDER"),
        ([], "bare", 2, "give the folder for the wheel and the sdist: .ci/release FOLDER"),
        (["dist"], "bare", 1, "bare has no build; "),
        (["dist"], "whole", 1, "CHANGELOG.md has no dated section for 0.1.0; rename [Unreleased] to [0.1.0] - 20"),
    ],
    ids=["help", "no folder", "no build", "no date"],
)
def test_a_release_tells_of_a_lack_before_it_works(
    release: Path, arguments: list[str], python: str, code: int, said: str
) -> None:
    environment = {**os.environ, "PYTHON": str(release / python)}
    command = ["bash", str(release / ".ci/release"), *arguments]
    done = subprocess.run(command, env=environment, cwd=release, capture_output=True, text=True)
    assert done.returncode == code and said in done.stdout + done.stderr
    assert not (release / "dist").exists()
