"""`fewstep export`: say how far ONNX is from torch."""

import msgspec

from fewstep.export.export import ExportOptions, export
from fewstep.runtime.bundle import Bundle
from fewstep.runtime.progress import Progress


def verb(options: ExportOptions, progress: Progress) -> None:
    manifest = export(options, progress)
    from fewstep.export.verify import Verification  # needs torch, which --help does not

    verified = f"{options.output}: {manifest.name}"
    if manifest.verification is not None:
        content = Bundle(options.output, manifest).read(manifest.verification)
        verification = msgspec.json.decode(content, type=Verification)
        verified += (
            f", verified against torch at {len(verification.comparisons)} points, "
            f"largest relative difference {verification.worst.relative:.1e}"
        )
    print(verified)
