"""A diffusers folder: a pipeline's, with model_index.json, as `save_pretrained` writes it. Read without network access.

The denoiser's class and shape come from its config.json, its meaning from scheduler/scheduler_config.json. Weights are
read from safetensors only: a pickle runs code. A folder that optimum exported holds model.onnx instead, and needs
neither torch nor diffusers.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fewstep.export.sources.diffusers_classes import ADDED, CLASSES, IMAGE, WRITE_IT, Interface
from fewstep.export.sources.onnx_file import OnnxSource
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.graph import io
from fewstep.runtime.bundle import file_sha256
from fewstep.runtime.configs import schedule_from_scheduler_config
from fewstep.runtime.errors import UserError

if TYPE_CHECKING:
    import torch

Config = Mapping[str, Any]
DENOISERS = ("unet", "transformer")  # component names under which pipelines keep theirs
SCHEDULER = "scheduler/scheduler_config.json"
CONFIG_LIMIT = 16 * 2**20  # bytes of a JSON file
BATCH_LIMIT = 63  # from 64 samples on diffusers lays tensors out anew before it enlarges them; values stay the same
PRIVATE = ("_name_or_path",)  # a path or a user's name
ONNX = "model.onnx"
GIVE_PIPELINE = "give the folder that pipeline.save_pretrained(FOLDER) wrote"
WEIGHTS = "diffusion_pytorch_model"


def load_diffusers_folder(folder: Path) -> TorchSource | OnnxSource:
    """The denoiser of a pipeline's folder. UserError naming the file that is missing or says too little."""
    home = _component(folder)
    interface = _interface(home, folder)
    scheduler = folder / SCHEDULER
    if not scheduler.is_file():
        raise UserError(f"{folder} has no {SCHEDULER}, which says what the network was trained on", GIVE_PIPELINE)
    kept = {name: value for name, value in _read(scheduler).items() if name not in PRIVATE}
    if not str(kept.get("_class_name")).startswith("DDPM"):  # the others cut a learned variance off, as export does
        kept.pop("variance_type", None)
    schedule, prediction = schedule_from_scheduler_config(scheduler)
    name = folder.resolve().name
    spec = Spec(name, interface.x_shape, interface.conditions, prediction, schedule)
    if (home / ONNX).is_file():
        return _onnx(home, spec, interface, kept, (home / "config.json", scheduler))
    from fewstep.export.sources.diffusers_network import Denoiser

    files = _weights(home)
    module = Denoiser(_network(home), interface.x_shape[0], interface.arguments)
    return TorchSource(module, spec, name, _sha256([home / "config.json", scheduler, *files]), BATCH_LIMIT, kept)


def _onnx(home: Path, spec: Spec, interface: Interface, scheduler: Config, also: tuple[Path, ...]) -> OnnxSource:
    """What `optimum-cli export onnx` makes of a pipeline: the network's arguments are the inputs of its file."""
    if IMAGE in interface.arguments:
        raise UserError(f"{home / ONNX} sees a picture beside x in one input", "export the pipeline's own folder")
    named = [
        msgspec.structs.replace(condition, input=argument.removeprefix(ADDED))
        for condition, argument in zip(spec.conditions, interface.arguments, strict=True)
    ]
    spec = replace(spec, conditions=tuple(named), x="sample", time="timestep", output="out_sample")
    return OnnxSource(home / ONNX, spec, spec.name, _sha256([home / ONNX, *also]), scheduler)


def _component(folder: Path) -> Path:
    """The denoiser's own folder."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f"{folder} is no diffusers folder: it has no model_index.json", GIVE_PIPELINE)
    components = _read(index)
    for name in DENOISERS:
        if components.get(name) and (folder / name).is_dir():
            return folder / name
    raise UserError(f"{folder} has neither of {', '.join(DENOISERS)}", GIVE_PIPELINE)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(f"{path} is missing", GIVE_PIPELINE)
    try:
        content = json.loads(path.read_bytes()[:CONFIG_LIMIT], parse_constant=str)  # -Infinity, which JSON has not
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON ({error})", GIVE_PIPELINE) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no JSON object", GIVE_PIPELINE)
    return content


def _interface(home: Path, folder: Path) -> Interface:
    """What the denoiser's config says."""
    config = _read(home / "config.json")
    name = config.get("_class_name")
    known = next((known for known in CLASSES if known.__name__ == name), None)
    if known is None:
        names = ", ".join(each.__name__ for each in CLASSES)
        raise UserError(f"{folder}: its denoiser is a {name}, and fewstep knows {names}", WRITE_IT)
    encoder = folder / "text_encoder" / "config.json"
    tokens = _read(encoder).get("max_position_embeddings") if encoder.is_file() else None
    try:
        return known(config, tokens)
    except (LookupError, TypeError, ValueError) as error:
        raise UserError(f"{home / 'config.json'} is not that of a {name} ({error})", GIVE_PIPELINE) from error


def _network(home: Path) -> "torch.nn.Module":
    """The network with its weights. diffusers also reads how its earlier versions named them."""
    class_name = _read(home / "config.json")["_class_name"]
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise UserError(f"{home.parent} needs diffusers, which is not installed", "pip install diffusers") from error
    try:
        with _quiet():
            network, info = getattr(diffusers, class_name).from_pretrained(
                home, local_files_only=True, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"diffusers {diffusers.__version__} cannot load {home}: {reason}", GIVE_PIPELINE) from error
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])[0]
        raise UserError(f"the weights in {home} have no {lacking!r}", "copy the folder again")
    module: torch.nn.Module = network.requires_grad_(False)
    return module


def _weights(home: Path) -> list[Path]:
    """The safetensors files. A pickle is refused."""
    files = sorted(home.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        pickled = next(
            (file.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for file in home.glob(pattern)), None
        )
        what = f"{home} has no {WEIGHTS}.safetensors"
        raise UserError(
            what if pickled is None else f"{what}, and {pickled} is a pickle, which may run any code",
            "write it with save_pretrained(FOLDER, safe_serialization=True)",
        )
    return files


def _sha256(files: Iterable[Path]) -> str:
    """Of all that was read."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(bytes.fromhex(io.sha256(file) if file.name == ONNX else file_sha256(file)))
    return digest.hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """diffusers says on stderr what its info says as well."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
