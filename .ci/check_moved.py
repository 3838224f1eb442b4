"""Check whether a commit's figures equal those of this tree: `python .ci/check_moved.py COMMIT [NAME ...]`.

The code of both makes int8 bodies of small denoisers, a fitted plan, and samples, on this machine. Both also export
tiny pipelines of diffusers, read from their configs and recorded, and networks with a ControlNet, a conditioner, free
sizes and a light network (`moved_sources.py`): of these the graphs, the manifests, encoded prompts, a baked file and
samples are compared. If all are bitwise equal, no result of such networks has changed. Precision maps, and the targets
that `TARGETS` leaves out, are not checked. Times may have changed. Differences are printed, and then the exit status
is 1. With names, only these sources are compared. All take about 25 minutes on two cores.
"""

import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import tomllib

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
PROMPTS = ("-p", "a cat", "-p", "a dog")
OF_THIS_EXPORT = ("provenance", "verification", "files")  # fields of a manifest; files are compared one by one
HASH_IN_NAME = re.compile(r"-[0-9a-f]{12}(?=\.)")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command_of(tree: Path, work: Path) -> Callable[..., None]:
    """Return a function that runs a verb with the code of `tree` in the folder `work`."""
    work.mkdir()
    (work / "fewstep").symlink_to(tree)  # the namespace of this code, found before an installed one
    write_metadata(tree, work)
    environment = os.environ | {"PYTHONPATH": str(work)}

    def fewstep(*arguments: str | Path) -> None:
        command = [sys.executable, "-m", "fewstep.cli.main", *map(str, arguments)]
        done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}\n{done.stderr[-2000:]}")

    return fewstep


def write_metadata(tree: Path, work: Path) -> None:
    """Write package metadata with the plugins of this code, which are found before those of an installed version."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    metadata = work / f"fewstep-{project['version']}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: fewstep\nVersion: {project['version']}\n")
    plugins = project["entry-points"]["fewstep.plugins"]
    lines = (f"{name} = {value}" for name, value in plugins.items())
    (metadata / "entry_points.txt").write_text("\n".join(["[fewstep.plugins]", *lines, ""]))


def make_int8(tree: Path, work: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """Return names and digests of the int8 bodies and samples that the code of `tree` makes in the folder `work`."""
    fewstep = command_of(tree, work)
    np.save(work / "observation.npy", np.linspace(-1, 1, 6, dtype=np.float32)[None])
    np.save(work / "tokens.npy", np.linspace(-1, 1, 6, dtype=np.float32)[None, None])
    known = (tree / "runtime/bundle/platforms.py").read_text()
    targets = ",".join(target for target in TARGETS if f'"{target}"' in known)
    for source, asked, condition, plans, expert in DENOISERS:
        name = Path(source.partition(":")[0]).stem + "-expert" * bool(expert)
        if names and name not in names:
            continue
        bundle, samples = work / name, work / "samples.npy"
        expert_options = ("--expert", f"small={expert}") if expert else ()
        name_of_file = source.partition(":")[0]
        found = ((tree / folder).rglob(name_of_file) for folder in ("zoo", "lab", "benchmarks"))  # zoo/ was in lab once
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


def make_exports(tree: Path, work: Path, sources: Path, names: list[str]) -> Iterator[tuple[str, str]]:
    """Return names and digests of what the code of `tree` makes from the sources of `moved_sources.py`."""
    fewstep = command_of(tree, work)
    for case in json.loads((sources / "cases.json").read_text()):
        name = case["name"]
        if names and name not in names:
            continue
        bundle = work / name
        fewstep("export", case["source"], "-o", bundle, "--verify", "quick", *case["export"])
        manifest = json.loads((bundle / "manifest.json").read_text())
        for file, code in manifest["files"].items():
            if not file.startswith("report/"):
                yield f"{name}: {HASH_IN_NAME.sub('', file)}", code
        facts = {field: value for field, value in manifest.items() if field not in OF_THIS_EXPORT}
        yield f"{name}: manifest", hashlib.sha256(HASH_IN_NAME.sub("", json.dumps(facts)).encode()).hexdigest()
        conditions, samples = work / f"{name}.npz", work / "samples.npy"
        is_guided = any("--guidance" in arguments for arguments in case["runs"].values())
        np.savez(conditions, **random_conditions(manifest["conditions"], is_guided))
        given = ("--conditions", conditions) if manifest["conditions"] else ()
        for run, arguments in case["runs"].items():
            fewstep("run", bundle, *arguments, *(() if "-c" in arguments else given), "-n", "2", "-o", samples)
            yield f"{name}: {run}", digest(samples)
        if "text" in manifest:
            picture = work / ("picture.png" if "autoencoder" in manifest else "samples.npy")
            encoded = {output["name"] for output in manifest["text"]["graph"]["outputs"]}
            others = [condition for condition in manifest["conditions"] if condition["name"] not in encoded]
            np.savez(conditions, **random_conditions(others, is_guided))
            given = ("--conditions", conditions) if others else ()
            fewstep("run", bundle, *next(iter(case["runs"].values())), *PROMPTS, *given, "-n", "2", "-o", picture)
            yield f"{name}: from prompts", digest(picture)
        if case["encodes"] is not None:
            fewstep("encode", case["source"], *case["encodes"], "-o", work / "prompts.npz")
            with np.load(work / "prompts.npz") as arrays:
                for array in arrays.files:
                    yield f"{name}: encoded {array}", hashlib.sha256(arrays[array].tobytes()).hexdigest()
        if case["bakes"] is not None:
            fewstep("bake", bundle, *case["bakes"], "-o", work / "baked.onnx")
            yield f"{name}: baked", digest(work / "baked.onnx")


def random_conditions(conditions: list[dict[str, Any]], is_guided: bool) -> dict[str, np.ndarray]:
    """Return two rows of each condition, and with guidance of those that the unconditional branch needs."""
    rng = np.random.default_rng(0)
    arrays = {}
    for condition in conditions:
        names = [condition["name"]]
        if is_guided and condition["null"] is None and condition["null_file"] is None:
            names.append(f"uncond.{condition['name']}")
        for name in names:
            shape, dtype = (2, *condition["shape"]), np.dtype(condition["dtype"])
            if dtype.kind == "f":
                arrays[name] = rng.standard_normal(shape).astype(dtype)
            else:
                low, high = condition["low"] or 0, condition["high"]
                arrays[name] = rng.integers(low, 2 if high is None else high + 1, shape).astype(dtype)
    return arrays


def main() -> None:
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    commit, *names = sys.argv[1:]
    with TemporaryDirectory() as folder:
        before, sources = Path(folder) / "commit", Path(folder) / "sources"
        subprocess.run([sys.executable, ROOT / ".ci/moved_sources.py", sources], check=True, capture_output=True)
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", before, commit], cwd=ROOT, check=True)
        try:
            theirs, ours = (
                dict(make_int8(tree, Path(folder) / f"{name}-int8", names))
                | dict(make_exports(tree, Path(folder) / f"{name}-exports", sources, names))
                for tree, name in ((before, "before"), (ROOT, "now"))
            )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)
    moved = [name for name in sorted(theirs.keys() | ours) if theirs.get(name) != ours.get(name)]
    print(*(f"moved: {name}" for name in moved), f"{len(moved)} of {len(ours)} differ from {commit}", sep="\n")
    raise SystemExit(bool(moved))


if __name__ == "__main__":
    main()
