"""The samplers of the tests of streams and populations."""

from tests.runtime.runs.conftest import grouped as grouped
from tests.runtime.runs.conftest import network as network
from tests.runtime.runs.conftest import sampler as sampler
