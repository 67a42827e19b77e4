"""A repository of a Hugging Face hub: a branch becomes a commit, and files are read at that commit.

HF_ENDPOINT names another hub than the public one.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    build_hf_headers,
    hf_raise_for_status,
    http_stream_backoff,
)

from rlhf_operator.api.data import TOKEN_KEY, HubSource
from rlhf_operator.api.plan import SourceContent

from .listing import MAX_FILES, Entry
from .trouble import Place, Transient

TIMEOUT_SECONDS = 60.0
_BLOCK = 1 << 20
_COMMIT = re.compile(r"[0-9a-f]{40,64}")
_PASSING = frozenset({408, 429})

Answer = TypeVar("Answer")


class Hub:
    """One repository, or a file or folder of it."""

    def __init__(self, place: Place, source: HubSource, content: SourceContent) -> None:
        self._place = place
        self._repo = source.repo
        self._path = (source.path or "").strip("/")
        self._revision = source.revision
        self._content = content
        self._type = "dataset" if content is SourceContent.DATA else "model"
        self._folder = ""
        # None lets the library look at HF_TOKEN.
        self._token = place.key(TOKEN_KEY)
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=self._token)

    def resolve(self) -> str:
        """The commit that the revision names now."""
        found = self._ask(
            lambda: (
                self._api.repo_info(
                    self._repo, revision=self._revision, repo_type=self._type, timeout=TIMEOUT_SECONDS
                ).sha
            )
        )
        if found is None or not _COMMIT.fullmatch(found):
            raise self._place.unusable(f"is at revision {str(found)[:80]!r}, which is no commit")
        return found

    def entries(self, revision: str | None) -> list[Entry]:
        """The files, one more than allowed at most."""
        return self._ask(lambda: self._entries(revision))

    def _entries(self, revision: str | None) -> list[Entry]:
        if self._path:
            named = self._api.get_paths_info(self._repo, [self._path], revision=revision, repo_type=self._type)
            if not named:
                raise self._place.not_found(f"commit {revision} has no file or folder {self._path}")
            if isinstance(named[0], RepoFile):
                self._folder = self._path.rpartition("/")[0]
                return [_entry(named[0], self._folder)]
        self._folder = self._path
        tree = self._api.list_repo_tree(
            self._repo,
            self._path or None,
            recursive=self._content is SourceContent.ARTIFACT,
            revision=revision,
            repo_type=self._type,
        )
        files = (each for each in tree if isinstance(each, RepoFile))
        return [_entry(each, self._folder) for each in islice(files, MAX_FILES + 1)]

    def read(self, entry: Entry, revision: str | None) -> Iterator[bytes]:
        """Yield the bytes of a file that `entries` has named. Raises Transient when they stop."""
        path = f"{self._folder}/{entry.name}" if self._folder else entry.name
        url = hf_hub_url(self._repo, path, repo_type=self._type, revision=revision, endpoint=self._api.endpoint)
        headers = build_hf_headers(token=self._token)
        # Tries are ours: the library's end with the first byte.
        with (
            self._typed(),
            http_stream_backoff("GET", url, headers=headers, timeout=TIMEOUT_SECONDS, max_retries=0) as response,
        ):
            hf_raise_for_status(response)
            yield from response.iter_bytes(_BLOCK)

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        return self._place.patiently(self._typed()(call))

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Turn the library's errors into ours: what a person must mend, and what may pass."""
        try:
            yield
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status in _PASSING or status >= 500:
                raise Transient(f"the hub answered {status}") from error
            if isinstance(error, RevisionNotFoundError):
                raise self._place.not_found(f"the repository has no revision {self._revision}") from error
            if status in (401, 403):
                # A hub says so of private repositories and of those that it does not have.
                raise self._place.forbidden(f"the hub answered {status}: private, gated, or not there") from error
            if status == 404:
                raise self._place.not_found("the hub answered 404") from error
            raise self._place.unusable(f"can't be read: the hub answered {status}") from error
        except HFValidationError as error:
            raise self._place.unusable(f"is no name of a repository: {str(error)[:200]}") from error
        except httpx2.HTTPError as error:
            raise Transient(f"{type(error).__name__}: {str(error)[:200]}") from error
        except (ValueError, KeyError) as error:
            raise self._place.unusable(
                f"is not on a hub: its answers can't be read ({type(error).__name__})"
            ) from error


def _entry(file: RepoFile, folder: str) -> Entry:
    name = file.path.removeprefix(f"{folder}/") if folder else file.path
    return Entry(name, file.size, file.lfs.sha256 if file.lfs is not None else None)
