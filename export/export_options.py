"""The options of `fewstep export`."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fewstep.export.verification.points import Scope
from fewstep.runtime.options import Options

ExportPrecision = Literal["float32", "float16", "int8", "int4"]


@dataclass(frozen=True)
class ExportOptions(Options):
    """Export a denoiser to a bundle, verified against its source.

    source: A shipped model's name (fashion_mnist or cifar10); FILE.py:FUNCTION, a
        function that returns (module, spec) or a diffusers pipeline; an .onnx file with --spec; a folder of diffusers
        or LeRobot; ORG/NAME, such a folder on a hub of models, at a commit with ORG/NAME@REVISION; or one file of
        weights, .safetensors or .gguf, with --config.
    output: The bundle's folder; an older bundle there is replaced.
    spec: For an .onnx file: a JSON file with names, schedule, prediction and conditions.
    config: For one file of weights, with the names of the original code or of diffusers: the folder of a diffusers
        pipeline of the same architecture, or ORG/NAME of one on a hub, of which only the configs are needed.
    statistics: For a LeRobot folder that stores statistics of several data sets: the data set whose statistics
        normalise actions and observations, such as so100.
    without: For a LeRobot folder of a vision-language-action policy: cameras that the robot lacks, such as
        observation.images.wrist. The policy then attends to the others.
    precision: float32, from which every other form can be derived; float16, half the size and for GPUs only; int8 or
        int4, weights of 8 or 4 bits in all networks, rounded to the nearest, for which no float32 is written.
    size: NAME=LOW:HIGH:MULTIPLE makes an axis of x dynamic, like height=32:128:8 and width=32:128:8. NAME@AXIS=...
        gives the axis another name. It counts elements of x: of latents, 8 or so pixels each. Default: x has one shape.
    lora: FILE.safetensors, or FILE.safetensors:STRENGTH, merged into the weights. Several files are merged in the order
        given. FILE@NETWORK, of several networks, unless the file's keys begin with the network's name.
    lora_slots: Layers that load LoRA files at run time: names, parts of names, or patterns like attn*.to_q; '*' for
        all. LAYERS@NETWORK: in one of several networks only.
    rank: The maximum sum of the ranks of a layer's LoRA files, with --lora-slots.
    change: NAME:ARGUMENTS, a change of the network before it is traced, like freeu:1.5,1.6,0.9,0.2 or pag:middle; or
        FILE.py:FUNCTION, which takes (module, spec) and returns both. Several changes are applied in the order given.
        CHANGE@NETWORK, of several networks.
    verify: full compares with the source at all times, batches and sizes. quick takes a sixth of the evaluations, for
        large networks. If a bundle at the output has the same graphs, verified by the same fewstep, nothing is run
        again.
    call: NAME=VALUE, like height=512 or num_frames=49: an argument of the call of a diffusers pipeline that export
        records, which defines the size of its samples, in pixels. NAME=@FILE.npy for an array. Default: the pipeline's
        own values.
    null: NAME=VALUE, like class=10: the null value of a condition, if the source does not define it. NAME=@FILE for an
        array in a .npy file, or in an .npz file under that name. Guidance needs one for each condition.
    expert: NAME=SOURCE@LAMBDA: the network SOURCE replaces the denoiser in the noisy steps, with lambda = log(alpha /
        sigma) below LAMBDA. NAME=SOURCE@-inf runs one step at pure noise before all others.
    check: Samples of the training data (.npz or .safetensors): x [N, *x_shape], and each condition by name. A spec that
        contradicts them is refused before the module is traced, and the error names the likely mistake, as verify
        --data does.
    cache: The name of a cut for feature caching, such as depth1 or F1B0. The bundle gets a light network, which some
        steps of plans like dpmpp_2m:20+every(interval=3) run. An unknown name lists the cuts.
    """

    source: str
    output: Path = field(metadata={"short": "-o", "unrecorded": True})
    spec: Path | None = None
    config: str | None = None
    statistics: str | None = None
    without: tuple[str, ...] = ()
    precision: ExportPrecision = "float32"
    size: tuple[str, ...] = ()
    lora: tuple[str, ...] = ()
    lora_slots: tuple[str, ...] = ()
    rank: int = 64
    change: tuple[str, ...] = field(default=(), metadata={"whole": True})
    verify: Scope = "full"
    call: tuple[str, ...] = field(default=(), metadata={"whole": True, "is_text": True})
    null: tuple[str, ...] = ()
    expert: tuple[str, ...] = ()
    check: Path | None = field(default=None, metadata={"unrecorded": True})
    cache: str | None = None
