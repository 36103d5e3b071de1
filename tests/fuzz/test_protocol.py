"""The conversations of `fuzz.protocol`, made and made shorter by hypothesis."""

from fuzz import protocol, runner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BYTES = st.just(0) | st.integers(0, 255)  # zero is the plain case
RECORDS = st.tuples(st.integers(0, len(protocol.ACTS) - 1), *[BYTES] * (protocol.SIZE - 1)).map(bytes)


@settings(
    max_examples=300,
    derandomize=True,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(RECORDS, min_size=5, max_size=40))
def test_everybody_gets_what_a_broker_that_is_right_would_send(records: list[bytes]) -> None:
    program = b"".join(records)
    try:
        protocol.run(program)
    except Exception as error:
        error.add_note(f"again: {runner.again(protocol.TARGET, program.hex())}")
        raise
