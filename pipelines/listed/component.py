"""A folder of one diffusers network, with its config.json and weights, outside a pipeline.

The config has the class and the shapes. The schedule and prediction come from the scheduler folder of the same parent,
as in a pipeline, or from a JSON file.
"""

from functools import cached_property
from pathlib import Path

from fewstep.export.batches import BATCH_LIMIT
from fewstep.export.sources.model_files import CONFIG, ONNX, Config, hash_files, read_json
from fewstep.export.sources.onnx_file import OnnxSource
from fewstep.export.sources.spec_file import read_fields
from fewstep.export.sources.torch_module import TorchSource
from fewstep.export.spec import Spec
from fewstep.pipelines.files.folder import INDEX, Folder, read_config
from fewstep.pipelines.listed.folder import (
    SCHEDULER,
    apply_scheduler,
    is_recorded,
    make_onnx_source,
    read_interface,
    read_scheduler,
)
from fewstep.pipelines.listed.pipelines import is_listed, warn_of_pipeline
from fewstep.plans.errors import UserError

OWN = ("name", "prediction", "schedule")  # fields of a spec that config.json does not have
NEEDED = OWN[1:]


class ParentFolder(Folder):
    """The parent folder of a component. If it is not the folder of a pipeline, nothing else in it belongs to the
    component."""

    @cached_property
    def index(self) -> Config:
        return read_json(self.path / INDEX) if (self.path / INDEX).is_file() else {}

    def config(self, component: str) -> Config:
        return super().config(component) if self.index else {}


def load_component(path: Path, spec_file: Path | None) -> TorchSource | OnnxSource:
    """Load the network of a component's folder. Raises UserError if nothing defines its schedule and prediction."""
    path = path.resolve()
    folder, config = ParentFolder(path.parent), read_config(path)
    interface = read_interface(config, folder, path)
    fields = {} if spec_file is None else read_fields(spec_file, OWN, NEEDED)
    scheduler = read_scheduler(folder.path, folder.pipeline) if spec_file is None else None
    read = [path / CONFIG]
    if scheduler is not None:
        _refuse_recorded(folder, path)
        warn_of_pipeline(folder)
        scheduler, interface, (schedule, prediction) = apply_scheduler(scheduler, folder, interface, config)
        fields, read = {"prediction": prediction, "schedule": schedule}, [*read, folder.path / SCHEDULER]
    elif spec_file is None:
        name = config["_class_name"]
        what = f"{path} is only a {name}, and {folder.path} has no {SCHEDULER} with its schedule and prediction"
        raise UserError(what, 'give both: --spec SPEC.json with "prediction" and "schedule", or copy that folder there')
    fields = {"name": path.name, "x_shape": interface.x_shape, "conditions": interface.conditions, **fields}
    spec = Spec(**fields, heads=interface.heads)
    if (path / ONNX).is_file():
        return make_onnx_source(path, spec, interface, scheduler, read)
    from fewstep.pipelines.files.loading import load_network
    from fewstep.pipelines.listed.network import wrap_network

    network, files = load_network(path)
    digest = hash_files([*read, *files])
    return TorchSource(wrap_network(network, interface), spec, path.name, digest, BATCH_LIMIT, scheduler)


def _refuse_recorded(folder: Folder, path: Path) -> None:
    """Raise UserError for the network of a recorded pipeline. Its call may scale x or the time, or add inputs that the
    network's config does not show."""
    if not is_listed(folder.pipeline) and is_recorded(folder):
        what = f"{path}: only a recording shows what a {folder.pipeline} feeds its network"
        raise UserError(what, f'export {folder.path}, or give --spec SPEC.json with "prediction" and "schedule"')
