"""Manifests of former schemas, as the schema of this version has them. All that it does not say has a default."""

from typing import Any

import msgspec

from fewstep.runtime.bundle.manifest import SCHEMA

HALF, FORMER_HALF = "float16", "float16-tensorrt"


def upgrade_manifest(document: dict[str, Any], schema: int) -> dict[str, Any]:
    """A manifest of schema 1 or 2. ValidationError for one that no version wrote."""
    bodies, engines = document.get("bodies"), document.get("engines")
    if isinstance(bodies, dict):
        document = document | {"bodies": {name: _upgrade_body(body) for name, body in bodies.items()}}
    if schema == 1:  # the float16 body had the name of its only engine
        if isinstance(bodies, dict) and FORMER_HALF in bodies:
            renamed = {HALF if name == FORMER_HALF else name: body for name, body in document["bodies"].items()}
            document = document | {"bodies": renamed}
        if isinstance(engines, list):
            document = document | {"engines": [_upgrade_engine(each) for each in engines]}
    return document | {"schema": SCHEMA}


def _upgrade_body(body: Any) -> Any:
    """Schema 2 kept the graph of the last steps apart from those before, which ended at the number of a range group."""
    if not isinstance(body, dict) or not isinstance(body.get("graph"), dict):
        return body
    rest = {name: value for name, value in body.items() if name not in ("graph", "coverage", "stages")}
    try:
        edges = dict(enumerate(body.get("groups", ()), 1))
        graphs = [
            stage["graph"] | {"coverage": stage["coverage"], "until": edges[stage["until"]]}
            for stage in body.get("stages", ())
        ]
    except (TypeError, KeyError) as error:
        raise msgspec.ValidationError(f"a body has graphs of steps that it does not have ({error})") from None
    return rest | {"graphs": [*graphs, body["graph"] | {"coverage": body.get("coverage")}]}


def _upgrade_engine(engine: Any) -> Any:
    is_former = isinstance(engine, dict) and engine.get("body") == FORMER_HALF
    return engine | {"body": HALF} if is_former else engine
