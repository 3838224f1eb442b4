"""The purpose of each verb, and the extras that it needs with [cli]. A bare install lists them too, so nothing but the
standard library is imported."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """`summary` is the verb's line in --help, under `group`; `extras` are the extras of the package that it needs.
    `example` is a command line of it."""

    group: str
    summary: str
    example: str
    extras: str = ""


BEGIN, MAKE, RUN, JUDGE, SHOW = "Begin", "Make", "Run", "Judge", "Show"
VERBS = {  # each is a module of this package, with a function `verb(options, progress) -> Outcome`
    "demo": Verb(BEGIN, "Export, calibrate, run and judge a shipped model.", "fewstep demo", "export,calibration"),
    "doctor": Verb(BEGIN, "Check this machine, and show how to get the missing parts.", "fewstep doctor"),
    "export": Verb(
        MAKE, "Turn a denoiser into a verified ONNX bundle.", "fewstep export model.py:make -o bundle", "export"
    ),
    "calibrate": Verb(
        MAKE,
        "Measure a bundle along its plan and lower it to int8.",
        "fewstep calibrate bundle --plan dpmpp_2m:8",
        "calibration",
    ),
    "fit": Verb(
        MAKE,
        "Fit the numbers of a plan to a body, for more quality in few steps.",
        "fewstep fit bundle --steps 4",
        "calibration",
    ),
    "build": Verb(
        MAKE,
        "Build engines for a bundle ahead of time.",
        "fewstep build bundle --precision int8",
        "calibration,tensorrt-rtx",
    ),
    "bake": Verb(
        MAKE,
        "Write a whole run as one ONNX file, for programs in any language.",
        "fewstep bake bundle --plan dpmpp_2m:8 -o run.onnx",
        "calibration",
    ),
    "pack": Verb(
        MAKE,
        "Copy what devices need of a bundle: some bodies, shared weights once.",
        "fewstep pack bundle -o device",
        "calibration",
    ),
    "run": Verb(
        RUN, "Sample a bundle into an image grid.", "fewstep run bundle -n 4 -c class=0 --precision int8", "cpu"
    ),
    "plan": Verb(RUN, "List solvers and grids, show and plot compiled plans.", "fewstep plan --show dpmpp_2m:8"),
    "measure": Verb(
        JUDGE,
        "Measure bodies in one table: quality, distributions, time, size.",
        "fewstep measure bundle --columns psnr,ms",
        "calibration",
    ),
    "report": Verb(JUDGE, "Judge a bundle: quality, coverage, speed, size.", "fewstep report bundle", "calibration"),
    "choose": Verb(
        JUDGE,
        "Choose plan, body and engine on this machine, within a time or of a quality.",
        "fewstep choose bundle --within 20ms",
        "calibration",
    ),
    "inspect": Verb(
        SHOW, "Show what is in a bundle, and what runs in which type.", "fewstep inspect bundle", "calibration"
    ),
    "verify": Verb(SHOW, "Check that a bundle is whole.", "fewstep verify bundle", "cpu"),
    "cache": Verb(SHOW, "Show what the cache folder of this user holds, and empty it.", "fewstep cache"),
}
