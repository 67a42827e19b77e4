"""The test bed's errors. Each message says what is wrong and what to do.

BedError
├── NotRootError                 the node profile needs root
├── BinaryUnavailableError       no source gave a binary
│   └── ChecksumMismatchError    a download is not what its publisher says
├── BuildFailedError             a Go build or an image build ended in an error
├── NotReadyError                something did not come up before its deadline
└── InvalidStateError            the state folder can't be used
"""

from __future__ import annotations


class BedError(Exception):
    """Anything the user of the test bed should read as one line."""


class NotRootError(BedError):
    """The node profile was asked for by a user who is not root."""

    def __init__(self) -> None:
        super().__init__(
            "the node profile needs root (containers, network namespaces, iptables); "
            "run it as root, or use a container engine: TESTBED=kind python -m testbed up --profile node"
        )


class BinaryUnavailableError(BedError):
    """No source gave a binary of the right version."""


class ChecksumMismatchError(BinaryUnavailableError):
    """A downloaded file does not have the published SHA-256."""


class BuildFailedError(BedError):
    """A Go build or an image build ended in an error."""


class NotReadyError(BedError):
    """Something did not come up before its deadline."""


class InvalidStateError(BedError):
    """The state folder holds something that this version can't use."""
