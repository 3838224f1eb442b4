"""Mistakes in a pipeline of an own class: each is refused in one line with its fix."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from fewstep.export.load_source import load_source
from tests.refusals import refuses

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

PAINTER = (Path(__file__).parents[3] / "docs/examples/own_pipeline.py").read_text()
OWN = "DDIMScheduler(clip_sample=False)"
SCHEDULER = """class Own:
    def set_timesteps(self, steps, device=None):
        self.timesteps = torch.linspace(1, 0, steps + 1)[:-1] * 1000

    def step(self, v, t, x, return_dict=True):
        return (x - 0.1 * v,)


class Painter("""
CONFIGURED = SCHEDULER.replace(
    "class Own:", "class Own(ConfigMixin):\n    config_name = 'scheduler_config.json'\n    config = {}\n"
)
MISTAKES: Mapping[str, tuple[Mapping[str, str], str, str]] = {
    "a time that is a python number": (
        {
            "times = time.expand(len(x)).float()": "times = float(time)",
            "timestep[:, None]": "torch.full((1, 1), timestep)",
        },
        "a network fails for 2 samples with the arguments that its pipeline passes for one (TypeError: full()",
        "let its forward take one time for each sample; or write a function",
    ),
    "a scheduler without config": (
        {OWN: "Own()", "class Painter(": SCHEDULER},
        "Own, its scheduler, has no config",
        "let it derive from SchedulerMixin and ConfigMixin of diffusers",
    ),
    "a step of other names": (
        {OWN: "Own()", "class Painter(": CONFIGURED},
        "the step of Own takes no model_output, timestep and sample",
        "give its arguments these names",
    ),
    "a prompt of another name": (
        {
            "def __call__(self, prompt,": "def __call__(self, text,",
            "[prompt] if isinstance(prompt, str) else prompt": "[text]",
        },
        "the call of Painter needs text, which a recording cannot make",
        "if it is the prompt, name it prompt; if it is an array, give it: --call text=@FILE.npy",
    ),
    "no generator": (
        {" generator=None,": "", "generator=generator": "generator=None"},
        "the call of Painter takes no generator",
        "let it take generator=None and draw noise from it",
    ),
    "a package that is not installed": (
        {"import torch\n": "import torch\nimport not_there\n"},
        "painter.py cannot be imported: ModuleNotFoundError: No module named 'not_there' (line 14)",
        "make `python FILE` run without error",
    ),
}


@pytest.mark.parametrize(("changes", "what", "fix"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_refused_with_its_fix(changes: Mapping[str, str], what: str, fix: str, tmp_path: Path) -> None:
    text = PAINTER
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "painter.py").write_text(text)
    with refuses(what, fix):
        load_source(f"{tmp_path / 'painter.py'}:painter")
