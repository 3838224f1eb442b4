"""The warning that the weights of a pipeline's folder may be those of a student of few steps."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.export.sources.card import read_tags
from fewstep.pipelines.files.folder import Folder
from fewstep.plans.configs.student_signs import find_signs, unread_fields
from fewstep.runtime.links import SNAPSHOTS

LOG = logging.getLogger("fewstep")
DISTILLED = "is_distilled"  # a field of model_index.json


def warn_of_student(folder: Folder, scheduler: Mapping[str, Any]) -> None:
    """Warn of fields of a folder's scheduler that are not read, and of the signs that its weights are a student's."""
    if unread := unread_fields(scheduler):
        LOG.warning("%s: its scheduler does not read the fields %s of its config", folder.path, ", ".join(unread))
    stated = folder.index.get(DISTILLED)  # by the pipelines of FLUX.2 klein
    if stated is False:
        return
    texts = (_name_of(folder.path), folder.pipeline, *read_tags(folder.path), *([DISTILLED] if stated else []))
    signs = find_signs(texts, scheduler)
    if signs is not None:
        LOG.warning(
            "%s: its name, card or scheduler says %s: if its weights are a student of few steps, the default steps and "
            "guidance of its pipeline are not its own; give those of its card, such as %s",
            *(folder.path, ", ".join(signs.words), signs.options),
        )


def _name_of(path: Path) -> str:
    """Return the name of a model's folder; in a hub's cache, where the folder is a commit, the name of the model."""
    home = path.resolve()
    is_commit = home.parent.name == SNAPSHOTS
    return home.parents[1].name.rpartition("--")[2] if is_commit else home.name
