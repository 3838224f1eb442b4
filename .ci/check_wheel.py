"""Check the content of a wheel: `python .ci/check_wheel.py WHEEL`. Needs nothing but Python."""

import hashlib
import json
import sys
from pathlib import Path, PurePosixPath
from zipfile import ZipFile

KINDS = {".py", ".typed", ".safetensors", ".onnx", ".data", ".json", ".md", ".txt"}
PACKAGES = {path.parent.name for path in Path(__file__).parents[1].glob("*/py.typed")}  # each package has one
READY = "fewstep/models/fashion_mnist/ready/"
MUST = (
    "fewstep/models/fashion_mnist/fashion_mnist.safetensors",
    "fewstep/measure/distances/extractors/cifar10-cnn.onnx",
    "fewstep/measure/distances/extractors/fashion-mnist-cnn.onnx",
    READY + "manifest.json",
)
LIMIT = 22_000_000  # bytes installed, 16 million of them weights and graphs: a mistake there is what this finds


def problems(wheel: ZipFile, name: str) -> list[str]:
    """Return the problems of a wheel as text."""
    names = [each for each in wheel.namelist() if not each.endswith("/")]
    own = [each for each in names if ".dist-info/" not in each]
    found = [f"{name} is not pure Python"] * (not name.endswith("-py3-none-any.whl"))
    found += [f"{each} is no part of fewstep" for each in own if not _is_ours(each)]
    found += [f"{each} is missing" for each in MUST if each not in names]
    found += [
        f"fewstep/{package} has no py.typed" for package in PACKAGES if f"fewstep/{package}/py.typed" not in names
    ]
    size = sum(member.file_size for member in wheel.infolist())
    found += [f"it has {size} bytes, more than {LIMIT}"] * (size > LIMIT)
    if READY + "manifest.json" in names:
        files = json.loads(wheel.read(READY + "manifest.json"))["files"]
        for file, sha256 in files.items():
            if READY + file not in names:
                found.append(f"{READY + file} is missing")
            elif hashlib.sha256(wheel.read(READY + file)).hexdigest() != sha256:
                found.append(f"{READY + file} is not what the manifest says")
        left = {each.removeprefix(READY) for each in names if each.startswith(READY)} - {*files, "manifest.json"}
        found += [f"{READY + each} is left over" for each in left]
    return found


def _is_ours(name: str) -> bool:
    top, package = PurePosixPath(name).parts[:2]
    return top == "fewstep" and package in PACKAGES and PurePosixPath(name).suffix in KINDS


def main() -> int:
    path = PurePosixPath(sys.argv[1])
    with ZipFile(path) as wheel:
        found = problems(wheel, path.name)
        count, size = len(wheel.namelist()), sum(member.file_size for member in wheel.infolist())
    for problem in found:
        print(f"{path.name}: {problem}", file=sys.stderr)
    if not found:
        print(f"{path.name}: pure Python, {count} files, {size / 1e6:.1f} MB installed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
