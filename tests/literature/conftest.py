"""The samplers of the tests of streams and populations."""

from tests.runtime.runs.conftest import network as network
from tests.runtime.runs.conftest import sampler as sampler
from tests.runtime.runs.conftest import two_groups as two_groups
