"""Pictures of a trained pipeline with its networks in few bits: `python -m lab.trained_whole WORK --data DATA --page`.

It trains the pipelines of `lab.trained_pipeline`, exports them, and calibrates them with 64 captions, by the functions
of the commands. Rows are pictures of other captions and seeds, next to those of float32: by the denoiser of a body
alone, then also with its text encoder, its decoder, and both. A row has the mean and the 5th percentile of PSNR over
the pictures, and the change of the mean. Times are processor time of one thread, from a caption to a picture.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.markdown import put_part, table
from benchmarks.options import parser_of
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.measure.cost import call_bytes
from fewstep.measure.distances.features import open_extractor
from fewstep.measure.rollouts.metrics import psnr
from fewstep.runtime import load
from fewstep.runtime.arrays import Float32
from fewstep.runtime.autoencoder import load_autoencoder
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.text import load_text_encoder
from lab.trained_pipeline import SIZES, caption_texts, captions, write_pipeline

SCRIPT, PAGE = "lab.trained_whole", Path(__file__).parent / "measured" / "trained.md"
PLAN, GUIDANCE = "dpmpp_2m:4", 2.0
TARGETS = ("cpu-x86", "int8-weights", "int4-weights")
BODIES = ("int8-cpu-x86", "int8-weights", "int4-weights")
PICTURES, PART, CALLS = 64, 16, 15  # pictures of a row, of a call, and timed calls
HEAD = ("autoencoder", "body", "networks", "dB", "5th percentile", "change, dB")
SHOWN = ("autoencoder", "piece", "colour", "place")
TIMES = ("autoencoder", "body", "a call, ms", "bytes of its files, kB", "in float32")


def make_bundle(work: Path, size: str, data: Path | None) -> Path:
    """Return the calibrated bundle of a size, which is made once."""
    folder, bundle, prompts = work / size, work / size / "bundle", work / "prompts.txt"
    if not (folder / "pipeline" / "model_index.json").is_file():
        write_pipeline(SIZES[size], folder, data)
    if not (bundle / "manifest.json").is_file():
        export(ExportOptions(str(folder / "pipeline"), bundle))
    if not set(BODIES) <= open_bundle(bundle).manifest.bodies.keys():
        prompts.write_text("\n".join(caption_texts(64, 0)), encoding="utf-8")
        options = CalibrateOptions(bundle, plan=PLAN, guidance=GUIDANCE, prompts=prompts, target=TARGETS)
        calibrate(options)
    return bundle


class Pipeline:
    """A denoiser, a text encoder and a decoder, each of a body."""

    def __init__(self, bundle: Path, denoiser: str, text: str, decoder: str) -> None:
        opened = open_bundle(bundle)
        self.sampler = load(bundle, body=denoiser, backend=OnnxRuntime(1))
        self.text = load_text_encoder(opened.with_graphs_of(text), 1)
        self.autoencoder = load_autoencoder(opened.with_graphs_of(decoder), 1, encoder=False)

    def draw(self, texts: Sequence[str], seeds: Sequence[int]) -> Float32:
        """Return pictures [N, 3, 32, 32] in [-1, 1] of captions."""
        x = self.sampler.sample(PLAN, seeds, self.text.encode(list(texts)), GUIDANCE)
        return np.clip(self.autoencoder.decode(x), -1, 1)

    def draw_all(self) -> Float32:
        texts = caption_texts(PICTURES, 1)
        parts = [range(start, start + PART) for start in range(0, PICTURES, PART)]
        return np.concatenate([self.draw(texts[part.start : part.stop], part) for part in parts])


def caption_row(bundle: Path, size: str) -> list[str]:
    """Return the shares of float32's pictures whose piece, colour and place are those of their captions: by the tree's
    classifier of Fashion-MNIST at the captioned place, the mean colour, and the place of most light."""
    shown, rows = Pipeline(bundle, "float32", "float32", "float32").draw_all(), captions.captions(PICTURES, 1)
    light, item = (shown[:, :, 2:-2, 2:-2] + 1) / 2, captions.ITEM
    cuts = [light[:, :, top : top + item, left : left + item] for top, left in captions.PLACES.values()]
    palette = np.array([*captions.COLOURS.values()])
    found = np.zeros(3)
    classifier = open_extractor("fashion-mnist-cnn", (1, 28, 28), 1)
    assert classifier is not None
    for number, row in enumerate(rows):
        cut = cuts[row.place][number]
        image = np.repeat(np.repeat(cut.max(0), 2, 0), 2, 1)[None, None].astype(np.float32)
        named = int(classifier.graph({classifier.input: 2 * image - 1})["logits"].argmax())
        mean = cut.mean((1, 2)) / max(float(cut.mean((1, 2)).max()), 1e-6)
        place = int(np.argmax([each[number].sum() for each in cuts]))
        found += named == row.item, int(np.square(palette - mean).sum(1).argmin()) == row.colour, place == row.place
    return [size, *(f"{100 * share:.0f} %" for share in found / len(rows))]


def quality_rows(bundle: Path, size: str) -> list[list[str]]:
    """Return the rows of all bodies of a bundle."""
    exact, rows = Pipeline(bundle, "float32", "float32", "float32").draw_all(), []
    for body in BODIES:
        alone = 0.0
        for name, text, decoder in (
            ("denoiser", "float32", "float32"),
            ("and text encoder", body, "float32"),
            ("and decoder", "float32", body),
            ("all", body, body),
        ):
            values = psnr(Pipeline(bundle, body, text, decoder).draw_all(), exact)
            alone = alone or float(values.mean())
            rows.append([size, body, name, *(f"{x:.1f}" for x in (values.mean(), np.percentile(values, 5)))])
            rows[-1].append("" if name == "denoiser" else f"{values.mean() - alone:+.1f}")
            print(rows[-1], flush=True)
    return rows


def time_rows(bundle: Path, size: str) -> list[list[str]]:
    """Return the time and the bytes of a call of each body. Bodies take turns."""
    names, manifest = ("float32", *BODIES), open_bundle(bundle).manifest
    opened, seconds = {name: Pipeline(bundle, name, name, name) for name in names}, {name: [] for name in names}
    (text,) = caption_texts(1, 2)
    for turn in range(CALLS):
        for name, pipeline in opened.items():
            before = time.process_time()
            pipeline.sampler.forget()
            pipeline.draw([text], [turn])
            seconds[name].append(time.process_time() - before)
    rows = []
    for name in names:
        reasons = "; ".join(f"{graph}: {reason}" for graph, reason in manifest.bodies[name].reasons.items())
        size_kb = call_bytes(open_bundle(bundle), name) / 1000
        rows.append([size, name, f"{1000 * median(seconds[name][1:]):.1f}", f"{size_kb:.0f}", reasons])
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST (default: that of Debian's package)")
    parser.add_argument("--page", action="store_true", help=f"put the tables into lab/measured/{PAGE.name}")
    given = parser.parse_args()
    bundles = {size: make_bundle(given.work, size, given.data) for size in SIZES}
    qualities = [row for size, bundle in bundles.items() for row in quality_rows(bundle, size)]
    times = [row for size, bundle in bundles.items() for row in time_rows(bundle, size)]
    shown = table(SHOWN, [caption_row(bundle, size) for size, bundle in bundles.items()])
    part = f"{table(HEAD, qualities)}\n\n{table(TIMES, times)}\n\n{shown}"
    print(part)
    if given.page:
        put_part(PAGE, SCRIPT, part)


if __name__ == "__main__":
    main()
