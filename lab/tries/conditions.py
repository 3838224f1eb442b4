"""Values of conditions in other types, orders, byte orders and shapes, in calls and in files; texts of numbers."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fewstep.cli.run.options import RunOptions
from fewstep.cli.run.sampling import run as run_verb
from fewstep.plans.names.plan_reference import parse_plan_text
from fewstep.runtime import load
from lab.tries.attempt import Attempt, check_close
from lab.tries.modules import make_bundle

OPS = ("norm_layers", "glu")
KINDS = (
    "float64",
    "float16",
    "big",
    "fortran",
    "strided",
    "list",
    "int words",
    "row",
    "column",
    "extra",
    "nan",
    "inf",
    "huge label",
    "negative label",
    "float label",
    "bool label",
    "uint64 label",
    "text label",
    "missing",
    "unknown",
    "object",
    "complex",
    "masked",
    "0-d",
    "npz",
    "npy",
)


def attempts(random: np.random.Generator, number: int) -> Iterator[Attempt]:
    folder = Path(tempfile.mkdtemp())
    bundle = make_bundle(folder, OPS, 8, 5)
    sampler = load(bundle)
    for index in range(number):
        kind, count, draw = KINDS[index % len(KINDS)], int(random.integers(2, 5)), int(random.integers(2**31))

        def run(kind=kind, count=count, draw=draw, index=index) -> None:  # type: ignore[no-untyped-def]
            own = np.random.default_rng(draw)
            label, words = own.integers(0, 5, count), own.integers(-8, 8, (count, 3)).astype(np.float32) / 4
            seeds = list(range(count))
            right = sampler.sample("ddim:2@trailing", seeds, {"label": label, "words": words})
            l, w = label, words  # noqa: E741
            if kind in ("float64", "float16"):
                w = words.astype(kind)
            elif kind == "big":
                w, l = words.astype(">f4"), label.astype(">i8")  # noqa: E741
            elif kind == "fortran":
                w = np.asfortranarray(words)
            elif kind == "strided":
                w, l = np.repeat(words, 2, 1)[:, ::2], np.repeat(label, 3)[::3]  # noqa: E741
            elif kind == "list":
                w, l = words.tolist(), label.tolist()  # noqa: E741
            elif kind == "int words":
                w = (words * 4).astype(np.int64)
                right = sampler.sample("ddim:2@trailing", seeds, {"label": label, "words": words * 4})
            elif kind == "row":
                w = words[0]
            elif kind == "column":
                l = label[:, None]  # noqa: E741
            elif kind == "extra":
                w = np.concatenate([words, words])[: count + 1]
            elif kind in ("nan", "inf"):
                w = words.copy()
                w[0, 0] = float(kind)
            elif kind == "huge label":
                l = label + 2**40  # noqa: E741
            elif kind == "negative label":
                l = label - 7  # noqa: E741
            elif kind == "float label":
                l = label + 0.5  # noqa: E741
            elif kind == "bool label":
                l = label > 2  # noqa: E741
                right = sampler.sample("ddim:2@trailing", seeds, {"label": (label > 2).astype(int), "words": words})
            elif kind == "uint64 label":
                l = label.astype(np.uint64)  # noqa: E741
            elif kind == "text label":
                l = [str(v) for v in label]  # noqa: E741
            elif kind == "object":
                w = words.astype(object)
            elif kind == "complex":
                w = words.astype(np.complex64) + 1j
            elif kind == "masked":
                w = np.ma.masked_greater(words, 0)
            elif kind == "0-d":
                l = np.array(3)  # noqa: E741
            given = {"label": l, "words": w}
            if kind == "missing":
                del given["words"]
            if kind == "unknown":
                given["other"] = w
            if kind in ("npz", "npy"):
                out = folder / f"{index}.npy"
                if kind == "npz":
                    np.savez(folder / f"{index}.npz", label=label.astype(np.int32), words=words.astype(np.float64))
                    options = RunOptions(
                        bundle,
                        parse_plan_text("ddim:2@trailing"),
                        conditions=folder / f"{index}.npz",
                        samples=count,
                        output=out,
                    )
                else:
                    np.save(folder / f"w{index}.npy", np.asfortranarray(words))
                    np.save(folder / f"l{index}.npy", label.astype(np.uint8))
                    options = RunOptions(
                        bundle,
                        parse_plan_text("ddim:2@trailing"),
                        condition=(f"words=@{folder}/w{index}.npy", f"label=@{folder}/l{index}.npy"),
                        samples=count,
                        output=out,
                    )
                run_verb(options)
                check_close(np.load(out), right, 1e-5)
                return
            value = sampler.sample("ddim:2@trailing", seeds, given)
            assert kind not in MUST, "was taken"
            check_close(value, right, 1e-5)

        yield Attempt(f"{kind} of {count}", run, may_refuse=True, must_refuse=kind in MUST)


MUST = {
    "row",
    "extra",
    "nan",
    "inf",
    "huge label",
    "negative label",
    "float label",
    "missing",
    "unknown",
    "complex",
    "masked",
    "0-d",
}
