"""The address of the page of a bundle: `report/index.html`, next to the page whose name carries its hash."""

import os
import shutil
from pathlib import Path

ADDRESS = "report/index.html"


def link_report_page(bundle: Path, drawn: str) -> None:
    """Make ADDRESS the page just committed, `drawn` by its name in the bundle.

    It is a second name of that file, or a copy: a link would lead nowhere from an archive or another machine. A kill
    before it leaves the former page there, or none, and the bundle valid.
    """
    address, draft = bundle / ADDRESS, bundle / "report" / ".index.html"
    draft.unlink(missing_ok=True)
    try:
        os.link(bundle / drawn, draft)
    except OSError:  # a file system of single names
        shutil.copyfile(bundle / drawn, draft)
    os.replace(draft, address)
    draft.unlink(missing_ok=True)  # of one file, two names are both kept
