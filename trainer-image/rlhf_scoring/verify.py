"""`python -m rlhf_scoring.verify`: hold a policy's files against a digest, before anything reads them.

The digest is an artifact's (of its manifest, which names every file) or, of a folder without one, that of the tree.
With `--cache` the files are copied there and verified once; a copy that stands under its digest is not read again.
"""

import argparse
import os
import sys
from pathlib import Path

from rlhf_operator.api.exitcodes import VERIFY_MISMATCH, VERIFY_NOT_SERVABLE, VERIFY_UNREADABLE

from .artifact import MANIFEST_FILE, plain_files, verify
from .cache import kept
from .errors import ArtifactError
from .tree import digest_tree

TERMINATION_LOG = "RLHF_TERMINATION_LOG"
ADAPTER_FILE = "adapter_config.json"
"""PEFT's: what lies beside it is an adapter, which a server would leave out or fail to load."""


def hold(folder: Path, digest: str) -> None:
    """Raises ArtifactError with reason DigestMismatch for other files, OSError for none."""
    if not folder.is_dir() or not any(folder.iterdir()):
        raise FileNotFoundError(f"{folder} holds no files: is the path on the claim right?")
    if (folder / MANIFEST_FILE).is_file():
        verify(folder, digest)
        return
    # Links are refused: they could lead to what the digest does not speak of when it is read again.
    plain_files(folder)
    found = digest_tree(folder)
    if found != digest:
        raise ArtifactError(f"{folder} has digest {found}, not {digest}", reason="DigestMismatch")


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code; the last words go to the container's termination message."""
    parser = argparse.ArgumentParser(prog="python -m rlhf_scoring.verify", description=__doc__)
    parser.add_argument("--artifact", type=Path, required=True, help="folder with the files")
    parser.add_argument("--digest", required=True, help="sha256:… that they must have")
    parser.add_argument("--cache", type=Path, help="folder that keeps verified copies between pods")
    options = parser.parse_args(arguments)
    folder: Path = options.artifact
    try:
        if options.cache is None:
            hold(folder, options.digest)
        else:
            folder = kept(options.cache, folder, options.digest, hold)
    except ArtifactError as error:
        return _end(str(error), VERIFY_MISMATCH if error.reason == "DigestMismatch" else VERIFY_UNREADABLE)
    except OSError as error:
        return _end(str(error), VERIFY_UNREADABLE)
    if (folder / ADAPTER_FILE).is_file():
        return _end(
            f"{options.artifact} is a LoRA adapter ({ADAPTER_FILE}), which can't be served without its base model: "
            "merge the two and serve the result (an RLHFJob does with lora.output: Merged, PEFT with merge_and_unload)",
            VERIFY_NOT_SERVABLE,
        )
    print(f"{options.artifact} is {options.digest}")
    return 0


def _end(words: str, code: int) -> int:
    print(words, file=sys.stderr)
    try:
        with open(os.environ.get(TERMINATION_LOG, "/dev/termination-log"), "w") as file:
            file.write(words[:2048])
    except OSError:
        print("the termination message can't be written", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
