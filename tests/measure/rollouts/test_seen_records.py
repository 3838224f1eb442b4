"""Records that calibrated a body, found again among those that judge it."""

import numpy as np

from fewstep.measure.rollouts.conditions_file import GivenConditions, describe_seen_records, digest_records
from fewstep.runtime.bundle.manifest import Body, Trial

END = "calibrated it too: give others (--conditions or --prompts)"


def body_of(**fields: object) -> dict[str, Body]:
    trial = Trial("channels", 41.0, 36.0, 8, is_chosen=True, **fields)  # type: ignore[arg-type]
    return {"int8": Body((), "int8", "cpu-x86", trials=(trial,))}


def test_records_are_counted_although_the_file_has_others_too() -> None:
    own, judged = GivenConditions({"a": np.arange(16.0)}).split_held_out()
    assert judged.calibrated == own.calibrated and len(own.calibrated) == 12 and own.records is not None
    bodies, count = body_of(calibrated=own.calibrated), int((own.records["a"] >= 8).sum())
    (line,) = describe_seen_records(bodies, {"a": np.arange(8.0, 24.0)})
    assert line == f"int8: {count} of the 16 records that judge {END}"
    assert not [*describe_seen_records(bodies, judged.records)]


def test_a_body_of_an_earlier_version_has_the_digest_of_all_records() -> None:
    records = {"a": np.arange(3.0)}
    (line,) = describe_seen_records(body_of(given=digest_records(records)), records)
    assert line == f"int8: all of the 3 records that judge {END}"
