"""A prefix of an object store, read and written through fsspec over Arrow's S3 client.

gs:// speaks the same protocol to Google's store, with its HMAC keys.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fsspec.implementations.arrow import ArrowFSWrapper  # type: ignore[import-untyped]
from pyarrow import ArrowException
from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem, resolve_s3_region

from rlhf_operator.api.data import ACCESS_KEY_ID_KEY, SECRET_ACCESS_KEY_KEY, SESSION_TOKEN_KEY, S3Source
from rlhf_operator.api.plan import SourceContent

from .listing import Entry
from .trouble import Place, Transient

CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0
_BLOCK = 8 << 20
_GOOGLE = "https://storage.googleapis.com"
_AWS_ERROR = re.compile(r"AWS Error (\w+)(?: \(HTTP status (\d+)\))? during \w+ operation: (.*)", re.DOTALL)
_NO_BUCKET = re.compile(r"Bucket '[^']*' not found")
_FORBIDDEN = frozenset(
    {
        "ACCESS_DENIED",
        "INVALID_ACCESS_KEY_ID",
        "INVALID_CLIENT_TOKEN_ID",
        "INVALID_SIGNATURE",
        "MISSING_AUTHENTICATION_TOKEN",
        "REQUEST_EXPIRED",
        "SIGNATURE_DOES_NOT_MATCH",
        "UNRECOGNIZED_CLIENT",
    }
)
_NOT_FOUND = frozenset({"NO_SUCH_BUCKET", "NO_SUCH_KEY", "RESOURCE_NOT_FOUND"})
_WORDS = 200

Answer = TypeVar("Answer")


class Bucket:
    """One object or prefix."""

    def __init__(self, place: Place, source: S3Source, content: SourceContent) -> None:
        self._place = place
        self._content = content
        scheme, _, path = source.uri.partition("://")
        self._bucket, _, self._prefix = path.partition("/")
        self._prefix = self._prefix.strip("/")
        if any(part in ("", ".", "..") for part in self._prefix.split("/")) and self._prefix:
            raise place.unusable("has an empty part, '.' or '..' in its path: write the key as the store lists it")
        self._folder = ""
        self._fs = self._open(scheme, source.endpoint)

    def _open(self, scheme: str, endpoint: str | None) -> Any:
        """Connect to nothing yet."""
        options: dict[str, Any] = {}
        if endpoint is None and scheme == "gs":
            endpoint = _GOOGLE
        if endpoint is not None:
            address = urlsplit(endpoint)
            if address.path.strip("/") or address.query or address.fragment or address.username:
                raise self._place.unusable(f"has the endpoint {address.hostname}: give scheme, host and port only")
            options = {"scheme": address.scheme, "endpoint_override": address.netloc}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region is None:
            region = "us-east-1" if endpoint is not None else self._ask(lambda: resolve_s3_region(self._bucket))
        key = self._place.key(ACCESS_KEY_ID_KEY)
        if key is not None:
            options |= {
                "access_key": key,
                "secret_key": self._place.key(SECRET_ACCESS_KEY_KEY),
                "session_token": self._place.key(SESSION_TOKEN_KEY),
            }
        # By default the client sends a checksum behind the body, which other stores than Amazon's refuse.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
        return ArrowFSWrapper(
            S3FileSystem(
                region=region,
                connect_timeout=CONNECT_SECONDS,
                request_timeout=REQUEST_SECONDS,
                retry_strategy=AwsStandardS3RetryStrategy(max_attempts=3),
                **options,
            ),
            skip_instance_cache=True,
        )

    def resolve(self) -> None:
        """An object store has no commits: the content's digest is what it was."""
        return None

    def entries(self, revision: str | None) -> list[Entry]:
        """The objects directly below the prefix, or all of them for an artifact; the object itself if it is one."""
        return self._ask(self._entries)

    def _entries(self) -> list[Entry]:
        path = self._key("")
        info = self._fs.info(path)
        if info["type"] == "file":
            self._folder, _, name = path.rpartition("/")
            return [Entry(name, info["size"])]
        self._folder = path
        found = (
            self._fs.find(path, detail=True).values()
            if self._content is SourceContent.ARTIFACT
            else self._fs.ls(path, detail=True)
        )
        return [Entry(each["name"].removeprefix(f"{path}/"), each["size"]) for each in found if each["type"] == "file"]

    def read(self, entry: Entry, revision: str | None) -> Iterator[bytes]:
        """Yield the bytes of an object that `entries` has named. Raises Transient when they stop."""
        with self._typed(), self._fs.open(f"{self._folder}/{entry.name}", "rb") as file:
            while block := file.read(_BLOCK):
                yield block

    def small(self, name: str, limit: int) -> bytes | None:
        """Return an object below the prefix, None when it is not there; of a larger one its beginning."""

        def get() -> bytes | None:
            try:
                with self._fs.open(self._key(name), "rb") as file:
                    return bytes(file.read(limit))
            except FileNotFoundError:
                return None

        return self._ask(get)

    def write(self, name: str, file: Path) -> None:
        """Put a file below the prefix. What is there under that name is replaced, in one step."""

        def put() -> None:
            with file.open("rb") as source, self._fs.open(self._key(name), "wb") as target:
                while block := source.read(_BLOCK):
                    target.write(block)

        self._ask(put)

    def _key(self, name: str) -> str:
        return "/".join(filter(None, (self._bucket, self._prefix, name)))

    def _ask(self, call: Callable[[], Answer]) -> Answer:
        return self._place.patiently(self._typed()(call))

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Turn the library's errors into ours: what a person must mend, and what may pass."""
        try:
            yield
        except FileNotFoundError as error:
            raise self._place.not_found("the store has no such object, prefix or bucket") from error
        except (OSError, ArrowException) as error:
            raise self._trouble(str(error)) from error

    def _trouble(self, words: str) -> Exception:
        known = _AWS_ERROR.search(words)
        if known is None:
            if _NO_BUCKET.fullmatch(words):
                return self._place.not_found(words)
            return Transient(words[:_WORDS])
        code, status, detail = known[1], int(known[2] or 0), known[3][:_WORDS]
        if code in _FORBIDDEN or status in (401, 403):
            return self._place.forbidden(detail)
        if code in _NOT_FOUND or status == 404:
            return self._place.not_found(detail)
        if 300 <= status < 500 and status not in (408, 429):
            hint = "; is AWS_REGION the bucket's?" if status < 400 else ""
            return self._place.unusable(f"can't be used: the store answered {status}{hint} {detail}")
        return Transient(f"{code}: {detail}")
