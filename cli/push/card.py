"""The model card of a bundle: how to run it, its bodies, and the figures that its report and calibration stored."""

import json
from collections.abc import Iterable, Iterator, Sequence

from rich.filesize import decimal

from fewstep.cli.conditions import list_required_arguments
from fewstep.cli.push.files import model_of
from fewstep.cli.push.licence import licence_fields
from fewstep.measure.cost import call_bytes
from fewstep.measure.results import Results
from fewstep.measure.results import decode as decode_results
from fewstep.plans.errors import UserError, printable
from fewstep.report.bundle_contents import read_verified_stages
from fewstep.report.call_time import describe_call, valid_calls
from fewstep.report.drawing.pictures import check_shape
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.networks import common_bodies
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, platform_of
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.companions import image_shape

Rows = Sequence[Sequence[str]]


def build_card(bundle: Bundle, name: str, licence: str | None) -> str:
    """Return the card of a bundle under the name ORG/NAME, as Markdown with the hub's front matter.

    licence: the licence of the model; None if nobody has stated it. Texts of the bundle are escaped.
    """
    manifest = bundle.manifest
    quantized = [body for body in manifest.bodies.values() if body.is_quantized]
    kinds = " and ".join(dict.fromkeys(body.precision for body in manifest.bodies.values()))
    blocks = [
        _front_matter(manifest, licence),
        f"# {_text(manifest.name)}",
        f"A denoiser as ONNX graphs in {kinds}, which fewstep runs without PyTorch.",
        "## Run it",
        *_usage(manifest, name),
        "## Bodies",
        _table(("body", "type", "made for", "size", "plan of its calibration"), _body_rows(bundle)),
    ]
    if quantized or _results(bundle) is not None:
        blocks += ["## Quality", *_quality(bundle)]
    return "\n\n".join([*blocks, "## Origin", *_origin(bundle, licence)]) + "\n"


def _front_matter(manifest: Manifest, licence: str | None) -> str:
    """Return the front matter. Each value is JSON, which is valid YAML for any text."""
    tags = ["fewstep", "onnx", "diffusion", *dict.fromkeys(body.precision for body in manifest.bodies.values())]
    source = model_of(manifest.provenance.source)
    fields: list[tuple[str, object]] = [*licence_fields(licence), ("library_name", "fewstep")]
    if (task := _task(manifest)) is not None:
        fields.append(("pipeline_tag", task))
    if source is not None:
        fields.append(("base_model", source))
        if any(body.is_quantized for body in manifest.bodies.values()):
            fields.append(("base_model_relation", "quantized"))
    fields.append(("tags", tags))
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in fields), "---"])


def _task(manifest: Manifest) -> str | None:
    """Return the hub's word for what the model does, where the manifest states it; otherwise None."""
    if manifest.policy is not None:
        return "robotics"
    shape = image_shape(manifest)
    if manifest.text is not None and manifest.autoencoder is not None and len(shape) == 3:
        return "text-to-image"
    is_image = _is_picture(manifest) and manifest.vocabulary is None and manifest.spectrogram is None
    return "unconditional-image-generation" if is_image and not manifest.conditions and not manifest.towards else None


def _is_picture(manifest: Manifest) -> bool:
    try:
        check_shape(image_shape(manifest))
    except UserError:
        return False
    return True


def _usage(manifest: Manifest, name: str) -> Iterator[str]:
    """Yield the commands and the program that sample the bundle."""
    precision = _usual_precision(manifest)
    words = ["fewstep", "run", name, *(["--precision", precision] * (precision != "float32"))]
    words += [*list_required_arguments(manifest), "-o", "samples.png" if _is_picture(manifest) else "samples.npy"]
    extras = ["cpu", "cli", "hub", *(["text"] * (manifest.text is not None))]
    command = printable(" ".join(words))
    yield f"    pip install 'fewstep[{','.join(extras)}]'\n    {command}"
    yield "In Python:"
    program = (
        "from fewstep.runtime import load",
        "from fewstep.runtime.hub import fetch_bundle",
        "",
        f'sampler = load(fetch_bundle("{name}"), "{precision}")',
    )
    yield "\n".join(["```python", *program, "```"])


def _usual_precision(manifest: Manifest) -> str:
    """Return int8 if a body for ONNX Runtime has it, otherwise the first precision in the bundle."""
    if any(body.precision == "int8" and _is_for_cpus(body) for body in manifest.bodies.values()):
        return "int8"
    precisions = [body.precision for body in manifest.bodies.values()]
    return "float32" if "float32" in precisions else precisions[0]


def _is_for_cpus(body: Body) -> bool:
    platform = platform_of(body.target, body.platform)
    return platform is not None and platform.backend == ONNXRUNTIME


def _body_rows(bundle: Bundle) -> Rows:
    """Return a row for each body that all networks have: others cannot run a plan."""
    return [
        (name, body.precision, body.target, decimal(call_bytes(bundle, name)), body.plan or "")
        for name, body in common_bodies(bundle.manifest).items()
    ]


def _results(bundle: Bundle) -> Results | None:
    """Return the figures of the report, else those of `fewstep measure`, else None."""
    file = bundle.manifest.results or bundle.manifest.evaluation
    return None if file is None else decode_results(bundle.read(file))


def _quality(bundle: Bundle) -> Iterator[str]:
    """Yield the stored figures: of the report if it measured a body in its current form, otherwise of its
    calibration."""
    manifest, results = bundle.manifest, _results(bundle)
    rows = list[Sequence[str]]()
    for name, body in manifest.bodies.items():
        rows += _quality_rows(name, body, results)
    if results is not None and results.float_against_teacher is not None and results.teacher is not None:
        quality = results.float_against_teacher
        teacher = f"float32, {results.teacher}"
        seeds = str(len(quality.values))
        rows.insert(0, ("float32", results.plan, teacher, _decibel(quality.mean), _decibel(quality.p5), seeds))
    if not rows:
        yield "The bundle stores no figures of its quality."
        return
    what = "PSNR of samples of the same seeds" if manifest.vocabulary is None else "Agreement of log-probabilities"
    yield f"{what}, in dB: the mean, and the value that 95 % of the seeds exceed. The seeds have no other use."
    yield _table(("body", "plan", "compared with", "mean", "95 % exceed", "seeds"), rows)
    yield from (f"- {_text(describe_call(call, manifest.bodies[call.body]))}." for call in valid_calls(manifest))


def _quality_rows(name: str, body: Body, results: Results | None) -> Iterator[Sequence[str]]:
    graphs = tuple(graph.file for graph in body.graphs)
    for quality in () if results is None else results.qualities:
        if quality.body == name and quality.graphs == graphs:
            assert results is not None
            yield from _picture_rows(name, results.plan, results.mean_picture_psnr(name))
            for end, reference in ((quality.against_float, "float32, same plan"), (quality.against_teacher, None)):
                if end is not None:
                    against = reference or f"float32, {results.teacher}"
                    yield name, results.plan, against, _decibel(end.mean), _decibel(end.p5), str(len(end.values))
            return
    chosen = [trial for trial in body.trials if trial.is_chosen]
    for trial in chosen:
        plan, figures = body.plan or "", trial.together or trial  # those of a run, with all networks in int8
        yield from _picture_rows(name, plan, trial.picture_psnr)
        yield name, plan, "float32, same plan", _decibel(figures.psnr), _decibel(figures.p5), str(figures.seeds)


def _picture_rows(name: str, plan: str, psnr: float | None) -> Iterator[Sequence[str]]:
    """Yield the row of a body's finished pictures, if there are any."""
    if psnr is not None:
        yield name, plan, "pictures of float32, same plan", _decibel(psnr), "", ""


def _origin(bundle: Bundle, licence: str | None) -> Iterator[str]:
    """Yield the source, the licence, the adapters, the check against the source, and the commands."""
    origin = bundle.manifest.provenance
    stated = _text(licence) if licence else "not stated by the source; ask its makers before you use it"
    lines = [f"source: {_text(origin.source)}", f"licence: {stated}"]
    lines += [f"LoRA: {_text(adapter.file)}, strength {adapter.strength:g}" for adapter in origin.adapters]
    stages = read_verified_stages(bundle)
    if stages:
        worst = max(stages, key=lambda stage: stage.relative)
        lines.append(
            f"largest relative difference from the source: {worst.relative:.1e} ({_text(worst.stage)}, "
            f"{sum(stage.points for stage in stages)} points)"
        )
    yield "\n".join(f"- {line}" for line in lines)
    if origin.commands:
        yield "Made by:"
        yield "\n".join(f"    {printable(command)}" for command in origin.commands)


def _decibel(value: float) -> str:
    return f"{value:.1f}"


def _table(head: Sequence[str], rows: Rows) -> str:
    lines: Iterable[Sequence[str]] = (head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _text(text: str) -> str:
    """Return a text of a bundle so that Markdown shows it as it is, on one line."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!&" else c for c in printable(text))
