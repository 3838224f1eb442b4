"""A U-Net that is controlled by an image, through the T2I-Adapter in its folder."""

from dataclasses import replace

from fewstep.export.sources.model_files import CONFIG
from fewstep.pipelines.files.folder import Folder
from fewstep.pipelines.listed.call_defaults import call_default
from fewstep.pipelines.listed.interface import WRITE_IT, Interface, number_condition, picture_condition
from fewstep.plans.errors import UserError

ADAPTER, ADAPTER_CLASS = "adapter", "T2IAdapter"  # a component of pipelines, and its class
CONTROL, CONTROL_SCALE = "controlnet_cond", "conditioning_scale"  # not arguments of the U-Net
PICTURE, SCALES = (0.0, 1.0), (0.0, 1.0)


def has_adapter(folder: Folder, network: str) -> bool:
    """Return whether the folder has an adapter for its denoiser. Raises UserError for one of an unsupported type."""
    if not folder.has(ADAPTER):
        return False
    is_described = (folder.path / ADAPTER / CONFIG).is_file()
    name = folder.config(ADAPTER).get("_class_name", ADAPTER_CLASS if is_described else None)
    if name != ADAPTER_CLASS or network != "UNet2DConditionModel":
        raise UserError(
            f"{folder.path}: a {network} with a {name or folder.class_of(ADAPTER)}; fewstep supports a "
            f"UNet2DConditionModel with one {ADAPTER_CLASS}",
            WRITE_IT,
        )
    return True


def add_control(interface: Interface, folder: Folder) -> Interface:
    """Return the interface with the image [channels, H, W], pixels in [0, 1], and with the weight of the control."""
    channels = folder.config(ADAPTER).get("in_channels", 3)
    height, width = (length * folder.pixels_per_latent for length in interface.x_shape[1:])
    seen = picture_condition("control", CONTROL, channels, height, width, typical=PICTURE)
    usual = call_default(folder.pipeline, f"{ADAPTER}_{CONTROL_SCALE}", 1.0)
    weight = number_condition("control_scale", CONTROL_SCALE, usual, SCALES)
    return replace(
        interface,
        conditions=(*interface.conditions, seen[0], weight[0]),
        arguments=(*interface.arguments, seen[1], weight[1]),
    )
