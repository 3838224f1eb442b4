"""A U-Net that is controlled by an image, through the ControlNet or the T2I-Adapter in its folder."""

from dataclasses import replace

from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.call_defaults import call_default
from fewstep.pipelines.listed.interface import WRITE_IT, Interface, number_condition, picture_condition
from fewstep.plans.errors import UserError

CONTROLNET, ADAPTER = "controlnet", "adapter"  # components of pipelines
CLASSES = {CONTROLNET: "ControlNetModel", ADAPTER: "T2IAdapter"}
CONTROL, CONTROL_SCALE = "controlnet_cond", "conditioning_scale"  # arguments of the control network, not of the U-Net
PICTURE, SCALES = (0.0, 1.0), (0.0, 1.0)


def find_control(folder: Folder, network: str) -> str | None:
    """Return the name of the pipeline's component that conditions the denoiser on an image, such as a ControlNet, or
    None if there is none. Raises UserError for a component of an unsupported type."""
    component = next((name for name in CLASSES if folder.has(name)), None)
    if component is None:
        return None
    config, entry = folder.config(component), CLASSES[component]
    name = config.get("_class_name", entry if (folder.path / component / "config.json").is_file() else None)
    if name != entry or network != "UNet2DConditionModel":
        raise UserError(
            f"{folder.path}: a {network} with a {name or folder.class_of(component)}; fewstep supports a "
            f"UNet2DConditionModel with one {' or '.join(CLASSES.values())}",
            WRITE_IT,
        )
    if config.get("global_pool_conditions"):
        raise UserError(f"{folder.path}: fewstep does not read a {name} with global_pool_conditions", WRITE_IT)
    return component


def add_control(interface: Interface, component: str, folder: Folder) -> Interface:
    """Return the interface with the image [channels, H, W], pixels in [0, 1], and with the weight of the control."""
    config = folder.config(component)
    channels = config.get("conditioning_channels" if component == CONTROLNET else "in_channels", 3)
    blocks = config.get("conditioning_embedding_out_channels") or (16, 32, 96, 256)
    larger = 2 ** (len(blocks) - 1) if component == CONTROLNET else folder.pixels_per_latent
    height, width = (length * larger for length in interface.x_shape[1:])
    seen = picture_condition("control", CONTROL, channels, height, width, typical=PICTURE)
    usual = call_default(folder.pipeline, f"{component}_{CONTROL_SCALE}", 1.0)
    weight = number_condition("control_scale", CONTROL_SCALE, usual, SCALES)
    return replace(
        interface,
        conditions=(*interface.conditions, seen[0], weight[0]),
        arguments=(*interface.arguments, seen[1], weight[1]),
    )
