"""The purpose of each verb, and the extras that it needs with [cli]. It imports nothing: a bare install lists them
too."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """`summary` is the verb's line in --help; `extras` are the extras of the package that it needs."""

    summary: str
    extras: str = ""


SUCCESSORS = {  # of verbs that have left
    "evaluate": "fewstep measure --columns psnr,fd",
    "bench": "fewstep measure --columns ms",
}
VERBS = {  # each is a module of this package, with a function `verb(options, progress) -> Outcome`
    "export": Verb("Turn a denoiser into a verified ONNX bundle.", "export"),
    "calibrate": Verb("Measure a bundle along its plan and lower it to int8.", "calibration"),
    "fit": Verb("Fit the numbers of a plan to a body, for more quality in few steps.", "calibration"),
    "build": Verb("Build engines for a bundle ahead of time.", "calibration,tensorrt-rtx"),
    "choose": Verb("Choose plan, body and engine on this machine, within a time or of a quality.", "calibration"),
    "run": Verb("Sample a bundle into an image grid.", "cpu"),
    "bake": Verb("Write a whole run as one ONNX file, for programs in any language.", "calibration"),
    "pack": Verb("Copy what devices need of a bundle: some bodies, shared weights once.", "calibration"),
    "report": Verb("Judge a bundle: quality, coverage, speed, size.", "calibration"),
    "measure": Verb("Measure bodies in one table: quality, distributions, time, size.", "calibration"),
    "inspect": Verb("Show what is in a bundle, and what runs in which type.", "calibration"),
    "verify": Verb("Check that a bundle is whole.", "cpu"),
    "plan": Verb("List solvers and grids, show and plot compiled plans."),
    "doctor": Verb("Check this machine, and show how to get the missing parts."),
    "cache": Verb("Show what the cache folder of this user holds, and empty it."),
    "demo": Verb("Export, calibrate, run and judge a shipped model.", "export,calibration"),
}
