"""An object store below one address, by fsspec: listing, ranges of objects, and objects put at once or not at all.

An object is there as a whole or not at all, whoever writes it: that is what makes one complete.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rna_watch.errors import RnaWatchError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PART_BYTES = 16 * 2**20
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "created", "last_modified")
_CHANGED = ("LastModified", "mtime", "updated", "created", "last_modified")
_EXTRAS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Object:
    """An object: its name below the address, its size, what changes whenever it is written, and when that was (s since 1970)."""

    name: str
    size_bytes: int
    version: str
    changed_s: float


class Store:
    """The objects below an address.

    Args:
        url: the address, such as `s3://bucket/run`; credentials are those that the store's own tools use.

    Raises:
        UsageError: nothing here reads addresses of this kind; the message names the library to install.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        scheme = url.partition("://")[0]
        try:
            folders = {"auto_mkdir": True} if scheme == "file" else {}
            self._system, root = fsspec.core.url_to_fs(url, **folders)
        except (ImportError, ValueError) as error:
            library = _EXTRAS.get(scheme, "the library that fsspec names for it")
            raise UsageError(
                f"{url} cannot be read here ({error}); install {library}: pip install {library}"
            ) from error
        self.url = url.rstrip("/")
        self._root = str(root).rstrip("/")

    def objects(self, below: str = "") -> dict[str, Object]:
        """All objects, by name; none where nothing was written yet.

        Args:
            below: only those below this name.

        Raises:
            RnaWatchError: the store does not answer, or refuses it.
        """
        with self._reaching("listed"):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._key(below), detail=True)
            except FileNotFoundError:
                return {}
        listed = (_object(str(key), info, self._root) for key, info in found.items() if info.get("type") == "file")
        return {each.name: each for each in listed}

    def look(self, name: str) -> Object | None:
        """One object, None if it is not there."""
        with self._reaching("looked at"):
            self._system.invalidate_cache()
            try:
                return _object(self._key(name), self._system.info(self._key(name)), self._root)
            except FileNotFoundError:
                return None

    def read(self, name: str, start: int = 0, end: int | None = None) -> bytes:
        """The bytes of an object, or of a range of it."""
        with self._reaching("read"):
            return bytes(self._system.cat_file(self._key(name), start=start, end=end))

    def put(self, name: str, content: bytes) -> None:
        """Write a small object."""
        with self._reaching("written"):
            self._system.pipe_file(self._key(name), content)

    def put_new(self, name: str, content: bytes) -> bool | None:
        """Write a small object if there is none of its name: whether it was, None where the store makes no such promise."""
        call = getattr(self._system, "call_s3", None)
        if call is None:
            return None
        bucket, key, _ = self._system.split_path(self._key(name))
        with self._reaching("written"):
            try:
                call("put_object", Bucket=bucket, Key=key, Body=content, IfNoneMatch="*")
            except FileExistsError:
                return False
            except OSError as error:
                if "PreconditionFailed" in str(error) or "At least one of the pre-conditions" in str(error):
                    return False
                if "NotImplemented" in str(error):
                    return None
                raise
        return True

    def put_file(self, name: str, file: Path) -> None:
        """Write an object from a file; a large one in parts that become an object in one act."""
        with self._reaching("written"):
            self._system.put_file(str(file), self._key(name))

    def delete(self, name: str) -> None:
        """Delete an object, if it is there."""
        with self._reaching("deleted"), contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._key(name))

    def abort_uploads(self, names: set[str]) -> int:
        """End uploads in parts to these objects that were begun and never ended; returns how many."""
        call = getattr(self._system, "call_s3", None)
        if call is None or not names:
            return 0
        bucket, prefix, _ = self._system.split_path(self._root)
        count = 0
        with self._reaching("tidied"):
            listed = call("list_multipart_uploads", Bucket=bucket, Prefix=prefix)
            for each in listed.get("Uploads", ()):
                if each["Key"].removeprefix(f"{prefix}/") in names:
                    call("abort_multipart_upload", Bucket=bucket, Key=each["Key"], UploadId=each["UploadId"])
                    count += 1
        return count

    def _key(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextlib.contextmanager
    def _reaching(self, what: str) -> Iterator[None]:
        """Errors of the store and of its library in words: they have no common class."""
        try:
            yield
        except (FileNotFoundError, RnaWatchError):
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}".partition("\n")[0][:300]
            raise RnaWatchError(
                f"{self.url} cannot be {what} ({said}); check the address, the network and the credentials"
            ) from error


def _object(key: str, info: dict[str, Any], root: str) -> Object:
    version = "|".join(f"{info[each]}" for each in _VERSIONS if info.get(each) is not None)
    changed = next((info[each] for each in _CHANGED if info.get(each) is not None), 0.0)
    return Object(
        name=key[len(root) + 1 :],
        size_bytes=int(info.get("size") or 0),
        version=f"{version}|{info.get('size')}",
        changed_s=float(changed.timestamp() if hasattr(changed, "timestamp") else changed),
    )
