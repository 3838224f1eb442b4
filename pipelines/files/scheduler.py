"""The scheduler's config of a pipeline's folder."""

from pathlib import Path
from typing import Any

from fewstep.export.sources.model_files import GIVE_PIPELINE, read_json
from fewstep.pipelines.files.folder import SCHEDULER_CONFIG, Folder
from fewstep.plans.configs.pipelines import PIPELINE
from fewstep.plans.errors import UserError

SCHEDULER_NAME = "scheduler"
VARIANCE = "variance_type"  # a field of DDPM's config
PRIVATE = ("_name_or_path",)  # fields that may contain a path or a user's name


def find_scheduler_file(folder: Folder) -> Path:
    """Return the config file of a pipeline's scheduler, whether it exists or not."""
    return folder.home(SCHEDULER_NAME) / SCHEDULER_CONFIG


def read_scheduler(folder: Folder) -> dict[str, Any]:
    """Return the scheduler's config as a bundle stores it: with the name of the pipeline that uses it. As for
    diffusers, the class that model_index.json names takes precedence over that of the config. Raises UserError if the
    folder has none."""
    file = find_scheduler_file(folder)
    if not file.is_file():
        what = (
            f"{folder.path} has no {file.relative_to(folder.path)}, which defines the network's schedule and prediction"
        )
        raise UserError(what, GIVE_PIPELINE)
    kept = {name: value for name, value in read_json(file).items() if name not in PRIVATE}
    if (listed := folder.class_of_diffusers(SCHEDULER_NAME)) is not None:
        kept["_class_name"] = listed
    if not str(kept.get("_class_name")).startswith("DDPM"):  # other schedulers drop a learned variance, like export
        kept.pop(VARIANCE, None)
    return {**kept, PIPELINE: folder.pipeline} if folder.pipeline else kept
