"""Check whether a commit's figures equal those of this tree: `python .ci/check_moved.py COMMIT`. Takes minutes.

The code of both makes int8 bodies of small denoisers, a fitted plan, and samples, on this machine. If all of them
are bitwise equal, no quality of such networks has changed. Conditioners, free sizes, precision maps, and the targets
that `TARGETS` leaves out are not checked. Times may have changed. Differences are printed, and then the exit status
is 1.
"""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PLANS = ("dpmpp_2m:4", "deis_t_2:4", "gradient_estimation:4@arctan", "unipc_2:4@ays_svd")


class Denoiser(NamedTuple):
    """The source for `fewstep export`, a file of benchmarks by its name; the arguments of calibration and samples;
    those of samples only; plans, and an expert for high noise.
    """

    source: str
    asked: tuple[str, ...]
    condition: str
    plans: tuple[str, ...] = PLANS  # int8 follows the first
    expert: str = ""


DENOISERS = (
    Denoiser("fashion_mnist", ("--guidance", "2"), "class=3"),
    Denoiser("dit_flow.py:make", ("--guidance", "2"), "class=3"),
    Denoiser("policy_unet1d.py:make", ("--guidance", "1"), "observation=@observation.npy"),
    Denoiser("action_tokens.py:make", (), "observation=@tokens.npy", ("maskgit:8", "llada:8")),
    Denoiser("speech.py:make", ("--guidance", "2"), "vowel=3", ("ddim:8",)),
    Denoiser(
        *("fashion_mnist", ("--guidance", "2"), "class=3", ("dpmpp_2m:6",)),
        expert="fashion_mnist@-3",
    ),
)
FITTED = "policy_unet1d"  # the cheapest
TARGETS = ("cpu-x86", "openvino", "tensorrt", "qnn", "qnn-8bit")
BODIES = (("float32", "onnxruntime"), ("int8", "onnxruntime"), ("int8", "openvino"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def made(tree: Path, work: Path) -> Iterator[tuple[str, str]]:
    """Return names and digests of the files that the code of `tree` makes in the folder `work`."""
    work.mkdir()
    np.save(work / "observation.npy", np.linspace(-1, 1, 6, dtype=np.float32)[None])
    np.save(work / "tokens.npy", np.linspace(-1, 1, 6, dtype=np.float32)[None, None])
    (work / "fewstep").symlink_to(tree)  # the namespace of this code, found before an installed one
    environment = os.environ | {"PYTHONPATH": str(work)}

    def fewstep(*arguments: str | Path) -> None:
        command = [sys.executable, "-m", "fewstep.cli.main", *map(str, arguments)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")

    known = (tree / "runtime/bundle/platforms.py").read_text()
    targets = ",".join(each for each in TARGETS if f'"{each}"' in known)
    for source, asked, condition, plans, expert in DENOISERS:
        name = Path(source.partition(":")[0]).stem + "-expert" * bool(expert)
        bundle, samples = work / name, work / "samples.npy"
        expert_options = ("--expert", f"small={expert}") if expert else ()
        name_of_file = source.partition(":")[0]
        found = ((tree / folder).rglob(name_of_file) for folder in ("lab", "benchmarks"))  # zoo/ was in benchmarks once
        file = next(itertools.chain(*found), None)
        fewstep("export", source if file is None else f"{file}:make", "-o", bundle, *expert_options)
        fewstep("calibrate", bundle, "--target", targets, "--trajectories", "8", "--plan", plans[0], *asked)
        sampled = [(plan, *body) for plan in plans for body in (BODIES if plan == plans[0] else BODIES[:1])]
        if name == FITTED:
            fewstep("fit", bundle, "--steps", "2", "--seeds", "8", "--iterations", "2", "--judge-seeds", "8")
            sampled.append(("fitted:2", *BODIES[0]))
        for plan, precision, engine in sampled:
            kind = ("--precision", precision, "--backend", engine, "-n", "2", "-o", samples)
            fewstep("run", bundle, "--plan", plan, *asked, "--condition", condition, *kind)
            yield f"{name}: {plan} in {precision} on {engine}", digest(samples)
        files = json.loads((bundle / "manifest.json").read_text())["files"]
        for file, code in files.items():  # bodies that no engine here runs
            if found := re.match(r"graphs/(int8-(?:tensorrt|qnn-8bit|qnn))-[0-9a-f]+\.onnx", file):
                yield f"{name}: {found[1]}", code


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    with TemporaryDirectory() as folder:
        before = Path(folder) / "commit"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, sys.argv[1]], cwd=ROOT, check=True)
        try:
            theirs = dict(made(before, Path(folder) / "before"))
            ours = dict(made(ROOT, Path(folder) / "now"))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)
    moved = [name for name in sorted(theirs.keys() | ours) if theirs.get(name) != ours.get(name)]
    print(*(f"moved: {name}" for name in moved), f"{len(moved)} of {len(ours)} differ from {sys.argv[1]}", sep="\n")
    raise SystemExit(bool(moved))


if __name__ == "__main__":
    main()
