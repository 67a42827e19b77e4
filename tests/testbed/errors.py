"""The test bed's errors. Each message says what is wrong and what to do.

BedError
├── NotRoot               the node profile needs root
├── BinaryUnavailable     no source gave a binary
│   └── ChecksumMismatch  a download is not what its publisher says
├── BuildFailed           a Go build or an image build ended in an error
├── NotReady              something did not come up before its deadline
└── InvalidState          the state folder can't be used
"""

from __future__ import annotations


class BedError(Exception):
    """Anything the user of the test bed should read as one line."""


class NotRoot(BedError):
    """The node profile was asked for by a user who is not root."""

    def __init__(self) -> None:
        super().__init__(
            "the node profile needs root (containers, network namespaces, iptables); "
            "run it as root, or use a container engine: TESTBED=kind python -m testbed up --profile node"
        )


class BinaryUnavailable(BedError):
    """No source gave a binary of the right version."""


class ChecksumMismatch(BinaryUnavailable):
    """A downloaded file does not have the published SHA-256."""


class BuildFailed(BedError):
    """A Go build or an image build ended in an error."""


class NotReady(BedError):
    """Something did not come up before its deadline."""


class InvalidState(BedError):
    """The state folder holds something that this version can't use."""
