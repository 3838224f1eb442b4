"""Published systems: what each claims, and what it is worth on the shipped models and those of the zoo.

    python -m benchmarks.claims --keep                   # all of it, into docs/measured
    python -m benchmarks.claims --model fashion_mnist --seeds 16 --only SVDD

A line has the system's figure next to the plain way at equal evaluations of the network, and at equal milliseconds: the
plain way gets as many evaluations as take as long. A system pays if it is better at both, by twice the deviation of the
mean. Where the plain way has one number of evaluations, those decide. Nothing here was tuned on the seeds that it is
judged on. --keep puts each line into docs/measured/claims.json, instead of the former one, and writes claims.md
and the figures of systems.md from all lines there.
"""

from pathlib import Path

from benchmarks.claims import claim_lines, claim_ways, fit_ways, plan_ways, student_ways, systems
from benchmarks.claims.measuring import judged, timed
from benchmarks.claims.settings import FIRST_SEED, MODELS, opened
from benchmarks.options import add_only, add_seeds, add_work, parser_of, seeds_of

CLAIMS = [*claim_ways.CLAIMS, *plan_ways.CLAIMS, *student_ways.CLAIMS, *fit_ways.CLAIMS]
PAGE = Path(__file__).parents[2] / "docs/measured/claims.md"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--model", action="append", choices=MODELS, help="default: all")
    add_seeds(parser, 64, FIRST_SEED)
    add_only(parser, "systems")
    parser.add_argument("--threads", type=int, default=1)
    add_work(parser, "claims")
    parser.add_argument("--keep", action="store_true", help="put the lines into docs/measured")
    options = parser.parse_args()
    seeds = seeds_of(options)
    wanted = [
        (model, claim)
        for model in options.model or MODELS
        for claim in CLAIMS
        if model in claim.models
        if not options.only or any(each.lower() in claim.system.lower() for each in options.only)
    ]
    models = dict.fromkeys(model for model, _ in wanted)
    settings = {model: opened(model, options.work, seeds, options.threads) for model in models}
    for model, claim in wanted:
        line = judged(model, settings[model], claim, *timed(settings[model], claim))
        print(line, flush=True)
        if options.keep:
            claim_lines.keep(line)
    if options.keep:
        write()
    return 0


def write() -> None:
    """claims.md and the figures of systems.md, from the lines that are kept."""
    kept = claim_lines.kept()
    PAGE.write_text(claim_lines.written(kept))
    systems.PAGE.write_text(systems.renewed(systems.PAGE.read_text(), kept.lines))
