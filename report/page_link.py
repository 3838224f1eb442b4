"""The fixed address of a bundle's report, `report/index.html`, in addition to the page with a hash in its name."""

import os
import shutil
from pathlib import Path

ADDRESS = "report/index.html"


def link_report_page(bundle: Path, drawn: str) -> None:
    """Make the file ADDRESS the page that was just committed, whose name in the bundle is `drawn`.

    ADDRESS is a hard link or a copy, since a symbolic link would break in an archive or on another machine. If the
    process is killed before that, ADDRESS is the previous page or does not exist, and the bundle is still valid.
    """
    address, draft = bundle / ADDRESS, bundle / "report" / ".index.html"
    draft.unlink(missing_ok=True)
    try:
        os.link(bundle / drawn, draft)
    except OSError:  # a file system without hard links
        shutil.copyfile(bundle / drawn, draft)
    os.replace(draft, address)
    draft.unlink(missing_ok=True)  # os.replace keeps both names if they are hard links to one file
