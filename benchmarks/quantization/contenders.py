"""The contenders: other tools, each in its settings on the engine that it quantizes for, and ours on that engine."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import CPU_X86, OPENVINO, TENSORRT, body_name

TARGET_OF = {each.backend: each.name for each in (CPU_X86, OPENVINO, TENSORRT)}  # an engine: of our body for it
DEFAULTS = "defaults"  # the setting of a tool that is asked for nothing but int8
OURS = "fewstep"


@dataclass(frozen=True)
class Tool:
    """A tool, run by `tools/ID.py` in an environment that has it; README.md says what its settings are."""

    id: str
    title: str
    engine: str
    settings: tuple[str, ...]


TOOLS = {
    tool.id: tool
    for tool in (
        Tool(
            "ort_static",
            "onnxruntime",
            "onnxruntime",
            (DEFAULTS, "outer", "tuned", "tuned-percentile", "tuned-entropy"),
        ),
        Tool("nncf_ptq", "NNCF", "openvino", (DEFAULTS, "outer", "tuned", "tuned-minmax", "tuned-transformer")),
        Tool("modelopt_ptq", "ModelOpt", "tensorrt", (DEFAULTS, "outer", "tuned", "tuned-entropy")),
    )
}


@dataclass(frozen=True)
class Contender:
    """One line of the result: what a tool makes in one setting, on one engine. `tool` None is ours."""

    engine: str
    tool: Tool | None = None
    setting: str = ""

    @property
    def body(self) -> str:
        """Its name in the bundle."""
        return body_name("int8", TARGET_OF[self.engine]) if self.tool is None else f"{self.tool.id}-{self.setting}"

    @property
    def name(self) -> str:
        return OURS if self.tool is None else f"{self.tool.title}, {self.setting}"


def contenders(tools: Collection[str], only: Sequence[str] = ()) -> tuple[Contender, ...]:
    """Return contenders by engine, ours first, then the settings of these tools. `only` keeps those with a part in
    the name, or the one of the name after a "=", as =ort_static-tuned.

    Raises UserError for an unknown tool, and if nothing is left besides ours.
    """
    if unknown := sorted(set(tools) - TOOLS.keys()):
        raise UserError(f"there is no tool {unknown[0]!r}", f"name one of {', '.join(TOOLS)}")
    found: list[Contender] = []
    for engine in TARGET_OF:
        here = [tool for tool in TOOLS.values() if tool.id in tools and tool.engine == engine]
        theirs = [Contender(engine, tool, setting) for tool in here for setting in tool.settings]
        kept = [line for line in theirs if not only or any(_is_meant(part, line.body) for part in only)]
        if kept:
            found += [Contender(engine), *kept]
    if not found:
        raise UserError(f"no setting has {' or '.join(only)} in its name", "leave --only out to see all of them")
    return tuple(found)


def _is_meant(part: str, name: str) -> bool:
    return part[1:] == name if part.startswith("=") else part in name
