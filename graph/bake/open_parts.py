"""Open the graphs of a bundle that a baked run consists of."""

from fewstep.graph.bake.assemble import Parts
from fewstep.graph.bake.features import features_of
from fewstep.graph.bake.network_form import (
    convert_network,
)
from fewstep.graph.bake.options import BakeOptions
from fewstep.graph.bake.run_parts import BakedNetwork
from fewstep.graph.bake.run_setup import check_branches
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import Graph
from fewstep.graph.shaping import check_shaping
from fewstep.plans.any_plan import AnyPlan, AnyStep
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body, GraphEntry, Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import free_x_shape
from fewstep.runtime.sampling.execution import execution_of
from fewstep.runtime.sampling.feeds import BodyInputs


def open_parts(bundle: Bundle, name: str, plan: AnyPlan, form: str, latents: bool) -> Parts:
    """Read the graphs of a body for the networks of a plan, converted to the number format `form`. Unless `latents` is
    true, read the text encoder and the autoencoder too."""
    manifest = bundle.with_graphs_of(name).manifest

    def open_graph(entry: GraphEntry) -> Graph:
        return load_stored(bundle, entry)

    each = {
        network: bundle.select_network(network).with_graphs_of(name)
        for network in dict.fromkeys(step.network for step in plan.steps)
    }
    bodies = {network: part.body(name) for network, part in each.items()}
    entries = [(network, entry) for network, body in bodies.items() for entry in body.graphs]
    first = {network: [name for name, _ in entries].index(network) for network in each}

    def network_of(step: AnyStep) -> int:
        return first[step.network] + bodies[step.network].graph_index(step.group)

    def setup_graphs(facts: Manifest) -> dict[str, Graph]:
        graphs = {"conditioner": facts.conditioner, "prologue": facts.prologue}
        return {key: open_graph(entry) for key, entry in graphs.items() if entry is not None}

    has_text = manifest.text is not None and not latents
    has_image = manifest.autoencoder is not None and not latents
    return Parts(
        networks=[
            BakedNetwork(f"network_{number}", convert_network(open_graph(entry), form, entry), entry)
            for number, (_, entry) in enumerate(entries)
        ],
        network_of=network_of,
        setup={network: setup_graphs(part.manifest) for network, part in each.items()},
        text=open_graph(manifest.text.graph) if has_text and manifest.text is not None else None,
        decoder=open_graph(manifest.autoencoder.decoder) if has_image and manifest.autoencoder is not None else None,
        nulls={
            condition.name: bundle.null(condition)
            for condition in manifest.conditions
            if condition.null_file is not None
        },
    )


def check_run(options: BakeOptions, bundle: Bundle, body: Body, plan: AnyPlan) -> None:
    """Raise UserError for a run that cannot be baked."""
    if options.batch is not None and options.batch < 1:
        raise UserError(f"batch {options.batch} is not a number of samples", "give 1 or more")
    described = bundle.manifest.autoencoder
    if described is not None and not options.latents:
        decoder, (output, *_) = described.decoder, described.decoder.outputs
        if output.role != "image":
            raise UserError(f"the decoder of {bundle.path} returns {output.role}, not an image", "bake with --latents")
        is_single = options.batch == 1 or (options.batch is None and options.parts)
        if not is_single and decoder.inputs[0].shape[0] == 1:
            raise UserError(f"the decoder of {bundle.path} decodes one sample", "bake with --batch 1, or --latents")
    if (text := bundle.manifest.text) is not None and text.lengths and not options.latents:
        what = f"the network of {bundle.path} takes texts without padding, which a baked file cannot cut off"
        raise UserError(what, "bake with --latents")
    if text is not None and text.reads and not options.latents:
        raise UserError(f"the text encoder of {bundle.path} gets features of a picture", "bake with --latents")
    execution_of(bundle.manifest.space).check_network(plan, BodyInputs.from_body(bundle, body).has_time)
    if options.parts and features_of(plan) is not None:
        what = f"plan {plan.name!r} has light steps, so its steps cannot be baked as one repeated step"
        raise UserError(what, "bake one file, without --parts")
    for step in plan.steps:
        check_shaping(getattr(step, "shaping", None), free_x_shape(bundle.manifest))
    check_branches(bundle.manifest, plan)
