"""What messages say of a call that fails."""

from fewstep.pipelines.recording.failed_call import describe_failure


def test_a_failure_of_a_class_without_a_file_has_no_place() -> None:
    assert describe_failure(ValueError("no\nnumber"), object()) == "ValueError: no number"
