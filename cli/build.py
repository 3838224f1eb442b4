"""`fewstep build`: say what was built and what was there."""

from fewstep.cli.outcome import Outcome
from fewstep.engines.build import BuildOptions, build, by_hand, intended
from fewstep.evaluation.output import check_folder, write_whole
from fewstep.runtime.progress import Progress


def verb(options: BuildOptions, progress: Progress) -> Outcome:
    if options.script is not None:
        check_folder(options.script)
        write_whole(options.script, by_hand(options).encode())
        return Outcome({"script": options.script}, (f"{options.script}: run it in {options.bundle}, on the device",))
    made = build(options, progress)
    engines = [(each, "") for each in made.built] + [(each, " (up to date)") for each in made.kept]
    lines = [f"{options.bundle / each.file}: {each.body} for {each.device}{note}" for each, note in engines]
    if not engines:
        lines = [f"{options.bundle}: the body for {options.backend} is there; it is compiled when it is loaded"]
    return Outcome({"bundle": options.bundle, "built": made.built, "kept": made.kept}, tuple(lines))


def dry_run(options: BuildOptions) -> Outcome:
    engines = intended(options)
    lines = [f"{each.body} for {each.device}: {'up to date' if each.is_up_to_date else 'to build'}" for each in engines]
    return Outcome(engines, tuple(lines or [f"nothing to compile for {options.backend}: only its body is needed"]))
