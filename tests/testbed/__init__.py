"""The test bed: a real Kubernetes cluster on one machine, for tests, benchmarks and the demo."""

from testbed.bed import Bed, ensure
from testbed.errors import BedError
from testbed.state import Profile

__all__ = ["Bed", "BedError", "Profile", "ensure"]
