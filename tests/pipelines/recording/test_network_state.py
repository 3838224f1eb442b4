"""Pipelines that change their network during the call: each is refused by the name of what it changes."""

from pathlib import Path

import pytest

from fewstep.export.load_source import load_source
from fewstep.pipelines.recording.network_state import describe_change, find_changes, read_state
from tests.refusals import refuses

pytest.importorskip("diffusers")
import torch
from torch import nn

FILE = """
import torch
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.utils.torch_utils import randn_tensor

class Half(ModelHook):
    def post_forward(self, module, output):
        return output / 2

class Processor:
    def __init__(self, scale=1.0):
        self.scale = scale

class Other(Processor):
    pass

class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.processor, self.scaling = torch.nn.Conv2d(8, 8, 3, padding=1), Processor(), {"a": 1.0}

    def forward(self, hidden):
        scale = self.processor.scale * self.scaling["a"] * (0.5 if isinstance(self.processor, Other) else 1)
        return hidden + scale * torch.nn.functional.silu(self.inner(hidden))

class Net(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self):
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 3, 3, padding=1)
        self.blocks, self.skipped, self.calls, self.gain = torch.nn.ModuleList([Block(), Block()]), [], 0, 1.0
        self.label = torch.nn.Linear(4, 8)
        self.register_buffer("table", torch.ones(8, 1, 1))

    def forward(self, sample, timestep, label):
        self.calls += 1
        hidden = self.table * self.gain * self.first(sample) + self.label(label)[:, :, None, None]
        for number, block in enumerate(self.blocks):
            hidden = hidden if number in self.skipped else block(hidden)
        return self.last(hidden) * (1 + timestep[:, None, None, None] / 1000)

def without_block(hidden):
    return hidden

class Mine(DiffusionPipeline):
    def __init__(self, net, scheduler):
        super().__init__()
        self.register_modules(net=net, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, prompt, num_inference_steps=10, extra_scale=EXTRA, generator=None):
        prompts = [prompt] if isinstance(prompt, str) else prompt
        x = randn_tensor((len(prompts), 3, 8, 8), generator=generator)
        label = torch.tensor([[sum(map(ord, text)) % n / n for n in (7, 11, 13, 17)] for text in prompts])
        net, block = self.net, self.net.blocks[0]
        self.scheduler.set_timesteps(num_inference_steps)
        FIRST
        for time in self.scheduler.timesteps:
            times = time.expand(len(x)).float()
            with_label, without = net(x, times, label), net(x, times, torch.zeros_like(label))
            output = without + 3 * (with_label - without)
            if extra_scale:
                CHANGE
                third = net(x, times, label)
                UNDO
                output = output + extra_scale * (with_label - third)
            x = self.scheduler.step(output, time, x, return_dict=False)[0]
        LAST
        return (x,)

def make():
    torch.manual_seed(0)
    return Mine(Net(), DDIMScheduler(clip_sample=False))
"""


def write(folder: Path, change: str = "pass", undo: str = "pass", first: str = "pass", last: str = "pass") -> Path:
    text = FILE.replace("EXTRA", "0.0" if change == "pass" else "1.0")
    for name, code in (("CHANGE", change), ("UNDO", undo), ("FIRST", first), ("LAST", last)):
        text = text.replace(f"{name}\n", f"{code}\n")
    (folder / "mine.py").write_text(text)
    return folder / "mine.py"


THIRD = "before call 3 of step 1"


@pytest.mark.parametrize(
    ("change", "undo", "said"),
    [
        ("block.forward = without_block", "del block.forward", "the forward of blocks.0 (without_block)"),
        (
            "kept, block.processor = block.processor, Other()",
            "block.processor = kept",
            "attention processor of blocks.0",
        ),
        ("block.processor.scale = 0.5", "block.processor.scale = 1.0", "attention processor of blocks.0 (scale)"),
        ("hook = block.register_forward_hook(lambda *a: a[2] / 2)", "hook.remove()", "the hooks of blocks.0"),
        (
            'HookRegistry.check_if_exists_or_initialize(block).register_hook(Half(), "half")',
            'block._diffusers_hook.remove_hook("half")',
            "blocks.0",
        ),
        ("net.gain = 0.5", "net.gain = 1.0", "the attribute gain of the network itself"),
        ("net.skipped.append(1)", "net.skipped.pop()", "the attribute skipped of the network itself"),
        ("net.table.mul_(2)", "net.table.div_(2)", "the buffer table"),
        ("kept, net.table = net.table, 2 * net.table", "net.table = kept", "the buffer table"),
        (
            "kept, net.last.bias = net.last.bias, torch.nn.Parameter(net.last.bias + 1)",
            "net.last.bias = kept",
            "the weight last.bias",
        ),
        ("net.blocks[0] = torch.nn.Identity()", "net.blocks[0] = block", "the module blocks.0"),
        ('block.scaling["a"] = 0.5', 'block.scaling["a"] = 1.0', "the adapter scales of blocks.0"),
        ("net.__class__ = type('Net', (Net,), {})", "net.__class__ = Net", "the class of the network itself"),
    ],
)
def test_a_network_that_one_branch_changes_is_refused(tmp_path: Path, change: str, undo: str, said: str) -> None:
    file = write(tmp_path, change, undo)
    with refuses(("Mine changes its network net during the call", said, THIRD)):
        load_source(f"{file}:make")


def test_an_argument_that_changes_the_network_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "net.gain = 0.5", "net.gain = 1.0")
    file.write_text(file.read_text().replace("extra_scale=1.0", "extra_scale=0.0"))
    with refuses(("the attribute gain", THIRD), "leave out --call extra_scale=1.0"):
        load_source(f"{file}:make", call=("extra_scale=1.0",))


def test_each_recording_finds_the_network_at_rest(tmp_path: Path) -> None:
    """A call that was refused leaves its change: it does not become the state at rest of later recordings, which would
    blame another argument."""
    with refuses(("the attribute gain", THIRD), "write a function that returns (module, Spec)"):
        load_source(f"{write(tmp_path, 'net.gain = 0.5')}:make", call=("num_inference_steps=4",))


def test_a_network_that_all_calls_change_is_refused(tmp_path: Path) -> None:
    """The exported network is that at rest."""
    with refuses(("the attribute gain", "before call 1 of step 1")):
        load_source(f"{write(tmp_path, first='net.gain = 0.5', last='net.gain = 1.0')}:make")


def test_a_network_that_the_call_leaves_changed_is_refused(tmp_path: Path) -> None:
    with refuses(("the attribute gain", "after its last call")):
        load_source(f"{write(tmp_path, last='net.gain = 0.5')}:make")


def test_weights_that_change_unseen_are_found_by_the_comparison(tmp_path: Path) -> None:
    """Through `data`, torch does not count changes. The pipeline runs with its real network."""
    file = write(tmp_path, "net.last.weight.data.mul_(2)", "net.last.weight.data.div_(2)")
    with refuses("the samples of Mine and of its scheduler's plan differ by"):
        load_source(f"{file}:make")


def test_what_the_code_of_the_network_keeps_is_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Net counts its calls. Pipelines also create a list of hooks that stays empty."""
    file = write(tmp_path, first="HookRegistry.check_if_exists_or_initialize(net)")
    load_source(f"{file}:make")
    assert "samples of Mine agree within" in caplog.text


LIBRARY = """
import torch
from diffusers import DiffusionPipeline, FirstBlockCacheConfig, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel
from diffusers.utils.torch_utils import randn_tensor
from peft import LoraConfig
from tests.tiny_pipelines import randomize
from tests.recorded_pipelines.components import make_network

class Mine(DiffusionPipeline):
    def __init__(self, transformer, scheduler):
        super().__init__()
        self.register_modules(transformer=transformer, scheduler=scheduler)

    @torch.no_grad()
    def __call__(self, num_inference_steps=10, generator=None):
        x = randn_tensor((1, 8, 1, 4, 4), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for time in self.scheduler.timesteps:
            BEFORE
            with self.transformer.cache_context("cond"):
                (output,) = self.transformer(x, time[None], torch.ones(1, 8, 16), return_dict=False)
            x = self.scheduler.step(output, time, x, return_dict=False)[0]
        return (x,)

def make():
    config = dict(make_network("wan", patch_size=(1, 1, 1)).config)
    network = randomize(WanTransformer3DModel.from_config({**config, "num_layers": 3}))
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")
    AT_REST
    return Mine(network, FlowMatchEulerDiscreteScheduler())
"""


def write_library(folder: Path, before: str = "pass", at_rest: str = "pass") -> Path:
    pytest.importorskip("peft")
    (folder / "mine.py").write_text(LIBRARY.replace("BEFORE", before).replace("AT_REST", at_rest))
    return folder / "mine.py"


def test_adapters_that_are_set_as_at_rest_are_no_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_library(tmp_path, "self.transformer.set_adapters(['style'], [1.0])")
    load_source(f"{file}:make")
    assert "samples of Mine agree within" in caplog.text


CACHE = "enable_cache(FirstBlockCacheConfig(threshold=0.1))"


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("self.transformer.set_adapters(['style'], [0.5])", "the adapter scales of blocks.0.attn1.to_q"),
        (f"self.transformer.is_cache_enabled or self.transformer.{CACHE}", "during the call"),
    ],
)
def test_a_network_of_diffusers_that_the_call_changes_is_refused(tmp_path: Path, before: str, said: str) -> None:
    with refuses(("Mine changes its network transformer", said, "before call 1 of step 1")):
        load_source(f"{write_library(tmp_path, before)}:make")


def test_a_cache_at_rest_is_refused(tmp_path: Path) -> None:
    with refuses("its network transformer has the cache", "disable_cache()"):
        load_source(f"{write_library(tmp_path, at_rest=f'network.{CACHE}')}:make")


def test_the_state_of_an_unchanged_network_is_equal() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = read_state(network)
    assert find_changes(before, read_state(network)) == []
    network(torch.ones(2, 2))  # in training mode, which counts batches
    now = read_state(network)
    changes = [describe_change(place, now) for place in find_changes(before, now)]
    assert changes == ["the buffer 1.num_batches_tracked"]


@pytest.mark.parametrize(("before", "now"), [(1, 1.0), (1, True), ([0], [False]), ({"a": 2}, {"a": 2.0})])
def test_equal_numbers_of_two_types_are_two_states(before: object, now: object) -> None:
    network = nn.Linear(2, 2)
    network.scale = before
    state = read_state(network)
    network.scale = now
    assert find_changes(state, read_state(network)) == [("", "scale")]
