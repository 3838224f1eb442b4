"""The purpose of each verb, and the extras that it needs in addition to [cli]. A bare install lists the verbs too, so
this module imports only the standard library."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Verb:
    """The entry of a command (verb) in --help.

    group: the heading of its entry. summary: the text of the entry. example: an example command line. extras: the
        extras of the package that the verb needs, separated by commas.
    """

    group: str
    summary: str
    example: str
    extras: str = ""


BEGIN, MAKE, RUN, JUDGE, SHOW = "Begin", "Make", "Run", "Judge", "Show"
VERBS = {  # each is a module of this package, with a function `verb(options, progress) -> Outcome`
    "demo": Verb(BEGIN, "Export, calibrate, run and judge a shipped model.", "fewstep demo", "export,calibration"),
    "doctor": Verb(BEGIN, "Check this machine, and show how to install missing parts.", "fewstep doctor"),
    "export": Verb(
        MAKE,
        "Export a denoiser to a bundle: a folder of verified ONNX graphs.",
        "fewstep export model.py:make -o bundle",
        "export",
    ),
    "encode": Verb(
        MAKE,
        "Encode prompts for a bundle that lacks the text encoders of its diffusers pipeline.",
        'fewstep encode FOLDER -p "a cat" -o prompts.npz',
        "export",
    ),
    "calibrate": Verb(
        MAKE,
        "Calibrate a bundle along a sampling plan, and quantize it to int8.",
        "fewstep calibrate bundle --plan dpmpp_2m:8",
        "calibration",
    ),
    "fit": Verb(
        MAKE,
        "Fit the coefficients of a sampling plan to a model, for higher quality in few steps.",
        "fewstep fit bundle --steps 4",
        "calibration",
    ),
    "build": Verb(
        MAKE,
        "Build TensorRT engines for a bundle ahead of time.",
        "fewstep build bundle --precision int8",
        "calibration,tensorrt-rtx",
    ),
    "bake": Verb(
        MAKE,
        "Write a whole sampling run as one ONNX file, for programs in any language.",
        "fewstep bake bundle --plan dpmpp_2m:8 -o run.onnx",
        "calibration",
    ),
    "pack": Verb(
        MAKE,
        "Copy the parts of a bundle that a device needs.",
        "fewstep pack bundle -o device",
        "calibration",
    ),
    "push": Verb(
        MAKE,
        "Publish a bundle on a hub of models, with a model card of its figures.",
        "fewstep push bundle my-org/my-model",
        "calibration,hub",
    ),
    "run": Verb(
        RUN,
        "Sample a bundle into an image grid or an array.",
        "fewstep run bundle -n 4 -c class=0 --precision int8",
        "cpu",
    ),
    "serve": Verb(
        RUN,
        "Serve a policy to robots: openpi's WebSocket, LeRobot's gRPC, or lines of JSON.",
        "fewstep serve policy --protocol lerobot --rate 30",
        "cpu,serve",
    ),
    "plan": Verb(
        RUN,
        "List solvers and time grids; show or plot a sampling plan.",
        "fewstep plan --show dpmpp_2m:8",
    ),
    "measure": Verb(
        JUDGE,
        "Compare float32, int8 and other forms of a model in one table: quality, time, size.",
        "fewstep measure bundle --columns psnr,ms",
        "calibration",
    ),
    "report": Verb(
        JUDGE,
        "Write an HTML report of a bundle: quality, int8 coverage, speed, size.",
        "fewstep report bundle",
        "calibration",
    ),
    "choose": Verb(
        JUDGE,
        "Choose plan, precision and engine on this machine, for a time limit or a quality.",
        "fewstep choose bundle --within 20ms",
        "calibration",
    ),
    "inspect": Verb(
        SHOW, "Show the contents of a bundle, and the type of each operation.", "fewstep inspect bundle", "calibration"
    ),
    "verify": Verb(SHOW, "Check that a bundle is intact.", "fewstep verify bundle", "cpu"),
    "cache": Verb(SHOW, "Show or clear the user's cache folder.", "fewstep cache"),
}
