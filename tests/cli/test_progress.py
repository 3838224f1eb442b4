"""Progress is plain lines where there is no terminal."""

import io

from fewstep.cli.progress import Lines


def test_a_short_stage_is_one_line() -> None:
    file = io.StringIO()
    progress = Lines(file)
    for stage in ("one", "two"):
        for done in range(1, 101):
            progress(stage, done, 100)
    assert file.getvalue() == "one: 100/100\ntwo: 100/100\n"
