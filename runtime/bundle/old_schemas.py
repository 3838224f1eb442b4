"""Upgrade manifests of earlier schemas to the current one. Fields that they lack get their defaults."""

from typing import Any

import msgspec

from fewstep.runtime.bundle.manifest import SCHEMA

HALF, FORMER_HALF = "float16", "float16-tensorrt"


def upgrade_manifest(document: dict[str, Any], schema: int) -> dict[str, Any]:
    """Upgrade a manifest of an earlier schema. Raises ValidationError for one that no version of fewstep wrote."""
    bodies, engines = document.get("bodies"), document.get("engines")
    if isinstance(bodies, dict):
        document = document | {"bodies": {name: _upgrade_body(body) for name, body in bodies.items()}}
    if isinstance(networks := document.get("networks"), dict):
        document = document | {"networks": {name: _upgrade_network(network) for name, network in networks.items()}}
    if schema == 1:  # the float16 body was named after its only engine
        if isinstance(bodies, dict) and FORMER_HALF in bodies:
            renamed = {HALF if name == FORMER_HALF else name: body for name, body in document["bodies"].items()}
            document = document | {"bodies": renamed}
        if isinstance(engines, list):
            document = document | {"engines": [_upgrade_engine(engine) for engine in engines]}
    return document | {"schema": SCHEMA}


def _upgrade_network(network: Any) -> Any:
    """Upgrade the bodies of a network besides the denoiser, which has been possible since schema 3."""
    if not isinstance(network, dict) or not isinstance(bodies := network.get("bodies"), dict):
        return network
    return network | {"bodies": {name: _upgrade_body(body) for name, body in bodies.items()}}


def _upgrade_body(body: Any) -> Any:
    """Upgrade the entry of a body.

    In schema 3, `replaces` was called `setup`. In schemas 1 and 2, the graph of the last steps was stored separately,
    and earlier graphs with the range group at which they ended.
    """
    if isinstance(body, dict) and "setup" in body:
        body = {name: value for name, value in body.items() if name != "setup"} | {"replaces": body["setup"]}
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
        raise msgspec.ValidationError(f"the stages of a body are damaged ({error})") from None
    return rest | {"graphs": [*graphs, body["graph"] | {"coverage": body.get("coverage")}]}


def _upgrade_engine(engine: Any) -> Any:
    is_previous = isinstance(engine, dict) and engine.get("body") == FORMER_HALF
    return engine | {"body": HALF} if is_previous else engine
