"""Interrupt commands (SIGINT) at random moments: each ends with exit code 130 and one line, and nothing is lost.

Exit code 0 is right if the command had finished. The bundle must be whole and unlocked, without unlisted files, and
be either the previous one or the one that the command makes. Every third command is interrupted twice.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO

from benchmarks.markdown import table
from benchmarks.options import parser_of, positive
from fewstep.cli.main import STOPPED
from fewstep.graph.files.commit import open_for_update
from fewstep.plans.errors import UserError
from fewstep.report.integrity import VerifyOptions, verify
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.bundle.reading import MANIFEST, open_bundle

NETWORK = """
import torch
from fewstep.export import Condition, ScheduleSpec, Spec

class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = torch.nn.Embedding(4, 16)
        sizes = (1, 16), (16, 16), (16, 1)
        self.layers = torch.nn.ModuleList([torch.nn.Conv2d(*size, 3, padding=1) for size in sizes])

    def forward(self, x, time, label):
        rows = self.rows(label) * torch.cos(0.01 * time)[:, None]
        first, inner, last = self.layers
        h = torch.nn.functional.silu(first(x) + rows[:, :, None, None])
        return last(torch.nn.functional.silu(inner(h)))

def make():
    torch.manual_seed(0)
    label = Condition("class", input="label", low=0, high=2, null=3)
    return Network(), Spec("tiny", (1, 8, 8), (label,), "v", ScheduleSpec("cosine"))  # stays near the data untrained
"""
LINES = """\
export MODEL -o BUNDLE
calibrate BUNDLE --plan dpmpp_2m:4 --trajectories 8 --target cpu-x86
fit BUNDLE --steps 2 --seeds 8 --selection-seeds 8 --judge-seeds 8 --iterations 2
report BUNDLE --seeds 8 --teacher-seeds 4 --forced-seeds 4 --rounds 2 --turn-seconds 0.02
build BUNDLE --backend onnxruntime-cuda --precision float16"""
COMMANDS = {line.partition(" ")[0]: tuple(line.split()) for line in LINES.splitlines()}
BEGINS_WITH = {"calibrate": "exported", "fit": "exported", "report": "calibrated", "build": "exported"}  # a bundle
# the command, with a byte to the file of the first argument when it begins: Python's own start cannot be caught
PROCESS = """
import os, sys
from fewstep.cli.main import main
os.write(int(sys.argv.pop(1)), b".")
sys.exit(main())
"""
SAID = f"fewstep: {STOPPED[0]}; {STOPPED[1]}"
PATIENCE = 300.0  # seconds in which a command ends
SECOND = (0.05, 0.3, 1.3)  # seconds from the first interrupt to the second, in turn
TRACES = ("Traceback", "Exception ignored", "KeyboardInterrupt")


@dataclass(frozen=True)
class Ended:
    """The end of one command. state: of its bundle. faults: what is wrong. seconds: from the interrupt to the end.
    after: seconds from the start of the command to the interrupt.
    """

    verb: str
    after: float
    code: int
    is_twice: bool
    state: str
    seconds: float
    faults: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--count", type=positive, default=200, help="total number of interrupts (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (default %(default)s)")
    parser.add_argument("--verb", action="append", choices=list(COMMANDS), help="a verb (default: all)")
    chosen = parser.parse_args(arguments)
    verbs = chosen.verb or list(COMMANDS)
    with TemporaryDirectory() as folder:
        work = Path(folder)
        finished = _prepare(work)
        moments, ends = random.Random(chosen.seed), []
        for number in range(chosen.count):
            verb = verbs[number % len(verbs)]
            second = SECOND[number // 3 % len(SECOND)] if number % 3 == 0 else None
            seconds, whole = finished[verb]
            ends.append(_interrupt(work, whole, number, verb, moments.uniform(0.001, 1.05 * seconds), second))
            if ends[-1].faults or (number + 1) % 20 == 0:
                faults = "; ".join(ends[-1].faults)
                print(f"{number + 1} of {chosen.count}{f', {verb}: {faults}' if faults else ''}", file=sys.stderr)
    print(_table(verbs, ends))
    for end in (end for end in ends if end.faults):
        print(f"{end.verb}, after {end.after:.3f} s, code {end.code}: {'; '.join(end.faults)}")
    return int(any(end.faults for end in ends))


def _prepare(work: Path) -> dict[str, tuple[float, Manifest]]:
    """Return bundles for the start of commands, and for each verb the seconds of a whole command and its manifest."""
    (work / "model.py").write_text(NETWORK)
    finished = {}
    for verb in COMMANDS:
        bundle = _copy(work, verb, f"whole-{verb}")
        begun = time.monotonic()
        process, errors = _start(work, verb, bundle)
        code = process.wait(PATIENCE)
        seconds = time.monotonic() - begun
        errors.seek(0)
        if code:
            raise UserError(f"{verb} fails without an interrupt: {errors.read().decode()}", "mend it first")
        finished[verb] = seconds, open_bundle(bundle).manifest
        for made, by in (("exported", "export"), ("calibrated", "calibrate")):
            if verb == by:
                shutil.copytree(bundle, work / made)
    return finished


def _copy(work: Path, verb: str, name: str) -> Path:
    """Return a fresh copy of the bundle that a verb begins with; for export a path without a file."""
    bundle = work / name
    if verb in BEGINS_WITH:
        shutil.copytree(work / BEGINS_WITH[verb], bundle)
    return bundle


def _start(work: Path, verb: str, bundle: Path) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
    """Start the process of a command, and return it with the file of its output."""
    words = {"MODEL": f"{work / 'model.py'}:make", "BUNDLE": str(bundle)}
    line = [words.get(word, word) for word in COMMANDS[verb]]
    ready, begins = os.pipe()
    said = TemporaryFile()  # noqa: SIM115 - the caller reads it
    process = subprocess.Popen(
        [sys.executable, "-c", PROCESS, str(begins), *line],
        stdout=said,
        stderr=said,
        pass_fds=(begins,),
        start_new_session=True,
        env={**os.environ, "XDG_CACHE_HOME": str(bundle.with_suffix(".cache"))},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )
    os.close(begins)
    os.read(ready, 1)
    os.close(ready)
    return process, said


def _interrupt(work: Path, whole: Manifest, number: int, verb: str, after: float, second: float | None) -> Ended:
    """Interrupt one command, as a terminal does: the whole group of its processes."""
    bundle = _copy(work, verb, f"bundle-{number}")
    before = (bundle / MANIFEST).read_bytes() if verb in BEGINS_WITH else None
    process, said = _start(work, verb, bundle)
    time.sleep(after)
    ran = process.poll() is None
    sent = time.monotonic()
    for wait in (0.0,) if second is None else (0.0, second):
        time.sleep(wait)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    faults = []
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
        faults.append(f"ran on for {PATIENCE:.0f} s")
    seconds = time.monotonic() - sent
    said.seek(0)
    text = said.read().decode(errors="replace")
    said.close()
    state, wrong = _inspect(bundle, before, whole, may_be_left=second is not None and seconds >= max(SECOND))
    faults += wrong
    if code == 130 and (not text.splitlines() or text.splitlines()[-1].removeprefix("\x1b[?25h") != SAID):
        faults.append("130 without its line")
    if code not in (0, 130) or (code == 0 and state != "finished"):
        faults.append(f"code {code}, and the bundle is {state}")
    if code < 0 or any(trace in text for trace in TRACES):
        faults.append(f"it says {text!r}")
    shutil.rmtree(bundle, ignore_errors=True)
    return Ended(verb, after, code, second is not None and ran, state, seconds, tuple(faults))


def _inspect(bundle: Path, before: bytes | None, whole: Manifest, may_be_left: bool) -> tuple[str, list[str]]:
    """Return the present state of the bundle, and its problems. may_be_left: files of a command that ended without
    cleanup."""
    faults = []
    if bundle.exists() and not may_be_left:
        unnamed = [path.name for path in bundle.rglob("*") if path.name.startswith(".")]
        if not (bundle / MANIFEST).exists() or unnamed:
            faults.append(f"left over: {sorted(path.name for path in bundle.iterdir())}")
    try:
        with open_for_update(bundle, must_exist=False):  # it is unlocked, and this removes what may be left
            pass
    except UserError as error:
        faults.append(str(error))
    if not (bundle / MANIFEST).exists():
        return ("as before", faults) if before is None else ("lost", [*faults, "the bundle is lost"])
    integrity = verify(VerifyOptions(bundle))
    faults += [*map(str, integrity.damages), *(f"{name} is left over" for name in integrity.unnamed)]
    if (bundle / MANIFEST).read_bytes() == before:
        return "as before", faults
    if _outline(open_bundle(bundle).manifest) == _outline(whole):
        return "finished", faults
    return "something else", [*faults, "neither the bundle from before nor the finished one"]


def _outline(manifest: Manifest) -> tuple[object, ...]:
    """Return the common parts of two runs of one command, without times and figures that depend on them. The times of
    calls come last, in a commit of their own, and a bundle without them is whole."""
    files = Counter(Path(name).name.rsplit("-", 1)[0] for name in manifest.files)
    fields = [field for field in manifest.__struct_fields__ if field != "calls" and getattr(manifest, field)]
    return sorted(files.items()), fields, sorted(manifest.bodies)


def _table(verbs: Sequence[str], ends: Sequence[Ended]) -> str:
    rows = []
    for verb in (*verbs, "all"):
        of = [end for end in ends if verb in (end.verb, "all")]
        states = Counter(end.state for end in of)
        counts = (
            len(of),
            sum(end.is_twice for end in of),
            sum(end.code == 130 for end in of),
            sum(end.code == 0 for end in of),
            states["as before"],
            states["finished"],
            sum(bool(end.faults) for end in of),
        )
        slowest = max((end.seconds for end in of), default=0.0)
        rows.append((verb, *map(str, counts), f"{slowest:.1f}"))
    head = ("verb", "interrupted", "twice", "code 130", "code 0", "bundle as before", "finished", "faults", "slowest s")
    return table(head, rows)


if __name__ == "__main__":
    sys.exit(main())
