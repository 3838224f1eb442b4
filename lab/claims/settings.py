"""The setting in which a claim is judged: a model, its seeds, and the judge of its samples."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.literature.populations import population
from fewstep.literature.populations.population import Weigh
from fewstep.measure.distances.features import Extractor, open_extractor
from fewstep.measure.distances.frechet import Gaussian, fit_gaussian
from fewstep.measure.rollouts.metrics import Floats
from fewstep.models.cifar10 import data as cifar10_data
from fewstep.models.fashion_mnist.data import read
from fewstep.plans.plan import Plan
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from lab.claims import caption_settings
from zoo.members import BY_NAME, FOLDER

W = 2.0
BATCH = 64
FIRST_SEED, APART = 10_000, range(20_000, 20_064)  # first seeds for judging, and for choosing
LAWFUL, PARTICLES = 32, 16  # evaluations of each particle, and particles of a seed, for comparing distributions
FASHION, CIFAR = "fashion-mnist-cnn", "cifar10-cnn"
OF_CLOTHES = ("dit_flow", "unet_epsilon_linear", "convnext_v_cosine", "nafnet_residual", caption_settings.MODEL)
JUDGES = {"fashion_mnist": FASHION, "cifar10": CIFAR, **dict.fromkeys(OF_CLOTHES, FASHION)}
JUDGED = {FASHION: (1, 28, 28), CIFAR: (3, 32, 32)}  # shapes of the judges' inputs
RESTORERS = ("nafnet_residual", "speech_ncsn")
MODELS = (*JUDGES, "speech_ncsn")
Own = Callable[["Setting"], Mapping[str, Any]]
PAIRS_SEED = 7_000  # first seed of restorers' pairs, unlike those of training, calibration and other pages


@dataclass(frozen=True)
class Setting:
    """A model, the judge of its classes, and the seeds; `labels` are the classes asked for.

    pairs: for a restorer, clean and degraded samples, [N, *x_shape] each; None for generators.
    source: the SOURCE of `fewstep export`, for networks that a way exports itself.
    pictures: the folder of CIFAR-10, which no package installs; None for figures of other data.
    """

    sampler: Sampler = field(hash=False)
    judge: Extractor | None = field(hash=False)
    condition: str
    seeds: range
    pairs: tuple[Floats, Floats] | None = field(default=None, hash=False)
    source: str = ""
    pictures: Path | None = None

    @property
    def labels(self) -> list[int]:
        return [seed % 10 for seed in self.seeds]

    @property
    def places(self) -> list[int]:
        """The index of each seed's pair."""
        assert self.pairs is not None
        return [seed % len(self.pairs[0]) for seed in self.seeds]

    @property
    def who(self) -> dict[str, Any]:
        if self.is_captioned:
            return {self.condition: caption_settings.texts(self.seeds)}
        return {self.condition: self.labels if self.pairs is None else self.pairs[1][self.places]}

    @property
    def is_captioned(self) -> bool:
        return Path(self.source).name.startswith(caption_settings.MODEL)

    def seen(self, x: Floats) -> Floats:
        """Return what the judge sees of one sample of each seed."""
        return caption_settings.seen(self.seeds, x) if self.is_captioned else x

    @property
    def clean(self) -> Floats:
        assert self.pairs is not None
        return self.pairs[0][self.places]

    def logits(self, x: Floats) -> Floats:
        """Return log p(class) of each class, [B, 10]."""
        assert self.judge is not None
        parts = [np.clip(x[at : at + 256], -1, 1).astype(np.float32) for at in range(0, len(x), 256)]
        values = np.concatenate([self.judge.graph({self.judge.input: part})["logits"] for part in parts])
        top = values.max(1, keepdims=True)
        return np.asarray(values - top - np.log(np.exp(values - top).sum(1, keepdims=True)))

    def reward(self, x: Floats) -> Floats:
        """Return log p(class | x) by the judge, [B], for any number of samples of each seed, seed by seed."""
        wanted = np.repeat(self.labels, len(x) // len(self.labels))
        return np.asarray(self.logits(x)[np.arange(len(x)), wanted])

    def sample(self, plan: Any, own: Own = lambda part: {}, **options: Any) -> Floats:
        """Return one sample of each seed, computed in batches. `options` contain tensors only if one batch holds all
        seeds. `own` are the options of a batch, which may have another condition than `who`."""
        made = []
        for at in range(0, len(self.seeds), BATCH):
            part = replace(self, seeds=self.seeds[at : at + BATCH])
            made.append(self.sampler.sample(plan, part.seeds, **{"condition": part.who, **options, **own(part)}))
        return np.concatenate(made)

    @cached_property
    def picture(self) -> Floats:
        """Samples of another class for each seed, from which edits start."""
        return np.asarray(self.sampler.sample(plan_of_steps(8), self.seeds, self.others, W))

    @cached_property
    def particles(self) -> Floats:
        """Particles of each seed without guidance, as rows."""
        return self.drawn(self.sampler.compile(f"dpmpp_2m_sde:{LAWFUL}", 1.0), lambda state: np.zeros(len(state.u)), ())

    def drawn(self, plan: Plan, weigh: Weigh, at: Sequence[int] | None) -> Floats:
        """Return particles of each seed, as rows with their weights in the last column."""
        ends = population(self.sampler, plan, weigh, self.seeds, PARTICLES, self.who, at=at, batch=BATCH)
        return np.concatenate([ends.samples.reshape(ends.log_weights.size, -1), ends.weights().reshape(-1, 1)], 1)

    @property
    def others(self) -> dict[str, list[int]]:
        """The classes of `picture`."""
        return {self.condition: [(label + 1) % 10 for label in self.labels]}

    @cached_property
    def known(self) -> Floats:
        """Samples of the classes asked for, from other seeds. Inpainting is given half of each."""
        seeds = [seed + 500 for seed in self.seeds]
        return np.asarray(self.sampler.sample(plan_of_steps(10), seeds, self.who, W))


def plan_of_steps(steps: int) -> str:
    return f"dpmpp_2m:{max(steps, 1)}"


def sampler_of(bundle: Path, precision: str = "float32") -> Sampler:
    return load(bundle, precision, backend=OnnxRuntime(threads=1))


@lru_cache
def export_source(source: str, **options: Any) -> Path:
    """Return the bundle of a source, exported with these options into a folder of this run."""
    bundle = Path(mkdtemp()) / "bundle"
    export(ExportOptions(source, bundle, verify="quick", **options))
    return bundle


def open_setting(model: str, folder: Path, seeds: range, pictures: Path | None = None) -> Setting:
    """Return the setting of a shipped model or a member of the zoo, which is exported into the folder unless it is
    already there. `pictures` is the folder of CIFAR-10."""
    source = BY_NAME[model].source if model in BY_NAME else model
    if not (folder / model / "manifest.json").exists():
        export(ExportOptions(source, folder / model, verify="quick"))
    sampler = sampler_of(folder / model)
    name = JUDGES.get(model, "none")
    judge = open_extractor(name, JUDGED.get(name, ()), 1)
    (condition,) = sampler.bundle.manifest.conditions
    return Setting(sampler, judge, condition.name, seeds, _pairs(model), source, pictures)


def _pairs(model: str) -> tuple[Floats, Floats] | None:
    """Return 512 clean samples of a restorer's test data, and their degraded versions."""
    if model not in RESTORERS:
        return None
    recipe = BY_NAME[model].recipe()
    if model == "speech_ncsn":
        clean, noisy = recipe.recordings(512, PAIRS_SEED)
        return clean, noisy
    import torch

    assert str(FOLDER) in sys.path  # recipes import modules of their folder
    rows = np.random.default_rng(PAIRS_SEED).permutation(10_000)[:512]
    clean = (read(split="test")[0][rows, None] / 127.5 - 1).astype(np.float32)
    degraded = recipe.degraded(torch.from_numpy(clean), torch.Generator().manual_seed(PAIRS_SEED))
    return clean, degraded.numpy()


def reference(s: Setting) -> Gaussian:
    """Return the Gaussian of the judge's features of the 10 000 test images of the model's data, at half the size for
    canvases."""
    assert s.judge is not None
    is_cifar = tuple(s.sampler.bundle.manifest.x_shape) == JUDGED[CIFAR]
    return _reference(s.judge, is_cifar, s.is_captioned, s.pictures)


@lru_cache
def _reference(judge: Extractor, is_cifar: bool, is_captioned: bool, folder: Path | None) -> Gaussian:
    images = cifar10_data.read(folder, "test")[0] if is_cifar else read(split="test")[0][:, None]
    pictures: Floats = images / np.float32(127.5) - 1
    if is_captioned:
        pictures = caption_settings.enlarge(pictures.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)))
    parts = [pictures[at : at + 500] for at in range(0, len(pictures), 500)]
    return fit_gaussian(np.concatenate([judge.extract(part) for part in parts]))
