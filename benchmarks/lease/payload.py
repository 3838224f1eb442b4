"""Everything that a machine without a network needs for one item, in folders that are small enough to be sent."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from benchmarks.lease.items import ORT, Item
from benchmarks.lease.slim_wheel import slim_wheel
from fewstep.plans.errors import UserError

ROOT = Path(__file__).parents[2]
BINARY = (".safetensors", ".png", ".data", ".npz", ".npy", ".jsonl", ".svg", ".onnx")
WRITTEN = (".whl", ".tar", ".xz")  # of another item's folder, which may be in the tree
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17)] + ["manylinux2014_x86_64"]
PARTS = re.compile(r"part-\d+|stored|made")  # the last two are left by a failure
METADATA = "Metadata-Version: 2.1\nName: fewstep\nVersion: 0.1.0\n"
SCRIPT = """#!/bin/bash
# bash run.sh RESULTS: store the files of this folder. Once all folders of the item are stored, run its command.
# PYTHON: the interpreter, by default python3. WORK: a folder that is kept between commands, with one folder for each
# payload. REHEARSE=1: a short run on a CPU.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export PYTHON=${{PYTHON:-python3}} WORK=${{WORK:-$(dirname "$(mktemp -u)")/fewstep-lease}} OUT=$1
payload=$WORK/payload-$(sha256sum < "$here/files.txt" | cut -c 1-12)
export FILES=$payload/files
mkdir -p "$payload/stored" "$FILES" "$OUT"
OUT=$(cd "$OUT" && pwd)
cp -r "$here"/files/. "$payload/stored"
cd "$payload/stored"
if ! sha256sum --status -c "$here/files.txt" 2>/dev/null; then
    echo "stored; run the other folders of the item too"
    exit 0
fi
if [ ! -d "$payload/tree" ]; then
    mkdir -p "$payload/tree.partial" "$payload/site"
    tar -xJf source.tar.xz -C "$payload/tree.partial"
    ln -sfn "$payload/tree" "$payload/site/fewstep"
    mkdir -p "$payload/site/fewstep-0.1.0.dist-info"
    printf '{metadata}' > "$payload/site/fewstep-0.1.0.dist-info/METADATA"
    shopt -s nullglob
    for each in *.whl; do
        $PYTHON -m pip install -q --no-index --no-deps --no-compile --upgrade --target "$payload/site" "$each"
    done
    for each in made-*.tar; do tar -xf "$each" -C "$FILES"; done
    mv "$payload/tree.partial" "$payload/tree"
fi
cd "$payload/tree"
export PYTHONPATH=$payload/site:$payload/tree PYTHONUNBUFFERED=1
if [ -n "${{REHEARSE:-}}" ]; then
{rehearsal}
else
{command}
fi
"""


@dataclass(frozen=True)
class Folder:
    """A folder to send, and its bytes."""

    path: Path
    size: int


def write_payload(
    item: Item, output: Path, work: Path, limit: int, python: str, architecture: int, data: Path | None = None
) -> Sequence[Folder]:
    """Write the folders of an item, each with `run.sh`.

    limit: bytes of a folder. python: version of the machine's interpreter, such as "3.12". architecture: of its GPU,
    such as 90. data: for training.

    Raises UserError if a file is larger than the limit, if a package cannot be downloaded, and for an output folder
    with other files than those of this command.
    """
    stored = output / "stored"
    others = [path.name for path in output.iterdir() if not PARTS.fullmatch(path.name)] if output.exists() else []
    if others:
        raise UserError(f"{output} has other files, such as {min(others)}", "choose an empty or a new folder")
    shutil.rmtree(output, ignore_errors=True)
    stored.mkdir(parents=True)
    work.mkdir(parents=True, exist_ok=True)
    _pack_source(item, stored / "source.tar.xz")
    _download_wheels(item, stored, work, python, architecture)
    if item.make is not None:
        item.make(work, output / "made", data)
        for number, file in enumerate(sorted(path for path in (output / "made").rglob("*") if path.is_file())):
            with tarfile.open(stored / f"made-{number:02}.tar", "w") as archive:
                archive.add(file, file.relative_to(output / "made"))
        shutil.rmtree(output / "made")
    files = sorted(stored.iterdir(), key=lambda file: -file.stat().st_size)
    sums = "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files)
    script = SCRIPT.format(command=item.command, rehearsal=item.rehearsal, metadata=METADATA.replace("\n", "\\n"))
    folders = []
    for number, names in enumerate(_fill(files, limit - len(script) - len(sums)), 1):
        folder = output / f"part-{number}"
        (folder / "files").mkdir(parents=True)
        for file in names:
            file.rename(folder / "files" / file.name)
        (folder / "files.txt").write_text(sums)
        (folder / "run.sh").write_text(script)
        folders.append(Folder(folder, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())))
    stored.rmdir()
    return folders


def _fill(files: Sequence[Path], limit: int) -> Iterator[list[Path]]:
    """Yield files for each folder. files: the largest first."""
    left = [(file, file.stat().st_size) for file in files]
    if left and left[0][1] > limit:
        raise UserError(f"{left[0][0].name} has {left[0][1] / 2**20:.1f} MiB", "raise --limit, or send fewer denoisers")
    while left:
        room, chosen = limit, list[Path]()
        for file, size in list(left):
            if size <= room:
                chosen.append(file)
                left.remove((file, size))
                room -= size
        yield chosen


def tree_files() -> list[Path]:
    """Return the files of the tree that git does not ignore."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def _pack_source(item: Item, output: Path) -> None:
    """Pack the text of the tree, and the weights of the item's denoisers."""
    names = [str(file.relative_to(ROOT)) for file in tree_files()]
    weights = tuple(f"/{name}.safetensors" for name in item.weights)
    kept = [name for name in names if not name.endswith((*BINARY, *WRITTEN)) or f"/{name}".endswith(weights)]
    with tarfile.open(output, "w:xz", preset=6) as archive:
        for name in sorted(kept):
            content = (ROOT / name).read_bytes()
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, BytesIO(content))


def _download_wheels(item: Item, folder: Path, work: Path, python: str, architecture: int) -> None:
    """Download the item's packages for the machine; onnxruntime-gpu with the code of its GPU only."""
    downloads = work / f"wheels-{python}"
    for package in item.wheels:
        platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:"]
        command += ["-d", str(downloads)]
        command += ["--python-version", python, "--implementation", "cp", *platforms, package]
        done = subprocess.run(command, capture_output=True, text=True)
        name = package.partition("==")[0].replace("-", "_")
        wheels = sorted(downloads.glob(f"{name}-*.whl"))
        if done.returncode or not wheels:
            raise UserError(f"pip cannot download {package}: {done.stderr.strip()[-300:]}", "check the network")
        if package != ORT:
            shutil.copy(wheels[-1], folder)
            continue
        slim = downloads / f"sm{architecture}" / wheels[-1].name
        if not slim.exists():
            slim.parent.mkdir(exist_ok=True)
            partly = slim.with_suffix(".partial")
            slim_wheel(wheels[-1], architecture, partly).rename(slim)
        shutil.copy(slim, folder)
