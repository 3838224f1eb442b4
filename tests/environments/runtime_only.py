"""Import all of fewstep.runtime and sample a bundle, where nothing else is installed: `python THIS BUNDLE`."""

import importlib
import importlib.util
import pkgutil
import sys

import numpy as np

FOREIGN = (
    *("torch", "onnx", "onnxscript", "typer", "click", "rich", "PIL", "polygraphy", "tensorrt_rtx", "scipy"),
    *("tokenizers", "transformers", "diffusers"),
)


def main(bundle: str) -> None:
    import fewstep.runtime

    for module in pkgutil.walk_packages(fewstep.runtime.__path__, "fewstep.runtime."):
        importlib.import_module(module.name)
    for precision in ("float32", "int8"):
        with fewstep.runtime.load(bundle, precision) as sampler:
            x = sampler.sample("dpmpp_2m:8", seeds=[0, 1], condition={"class": [0, 1]}, guidance=2.0)
        assert x.dtype == np.float32 and np.isfinite(x).all()
    loaded = sorted(name for name in FOREIGN if name in sys.modules)
    assert not loaded, f"the runtime imported {loaded}"
    installed = sorted(name for name in FOREIGN if importlib.util.find_spec(name) is not None)
    print(f"sampled in float32 and int8; installed besides the runtime: {', '.join(installed) or 'nothing'}")


main(sys.argv[1])
