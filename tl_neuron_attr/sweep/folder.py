"""A study's folder, on this machine or at any URL that fsspec opens: files whole or not at all, one lock per shard."""

import io
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout

from tl_neuron_attr.results import storage


@dataclass(frozen=True)
class Folder:
    """Where a study's files lie.

    Attributes:
        files: The file system.
        root: The folder in it.
    """

    files: Any
    root: str

    @classmethod
    def at(cls, url: str | Path) -> "Folder":
        """Return the folder at a path or URL, such as ``s3://bucket/study``.

        Raises:
            ValueError: If nothing installed opens such a URL.
        """
        try:
            files, root = fsspec.core.url_to_fs(str(url))
        except (ImportError, ValueError) as error:
            raise ValueError(f"out={str(url)!r} can't be opened: {error}") from error
        return cls(files, root.rstrip("/"))

    @property
    def local(self) -> bool:
        """Whether the folder is on this machine's disks."""
        return "file" in (self.files.protocol if isinstance(self.files.protocol, tuple) else (self.files.protocol,))

    def path(self, name: str) -> str:
        """Return the full name of a file."""
        return f"{self.root}/{name}"

    def has(self, name: str) -> bool:
        """Return whether a file is there."""
        return bool(self.files.exists(self.path(name)))

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        if self.has(name):
            self.files.rm(self.path(name))

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: If there is none.
        """
        with self.files.open(self.path(name), "rb") as stream:
            return stream.read()

    def write(self, name: str, data: bytes) -> None:
        """Write a file; it appears whole or not at all.

        Raises:
            OSError: If it can't be written, naming it; nothing is left behind.
        """
        path = self.path(name)
        if self.local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with storage.whole(path) as partial:
                partial.write_bytes(data)
            return
        partial = f"{path}.{uuid4().hex[:8]}.partial"
        try:
            self.files.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            self.files.pipe_file(partial, data)
            self.files.mv(partial, path)
        except OSError as error:
            raise OSError(f"{path} could not be written: {error}") from error
        finally:
            if self.files.exists(partial):
                self.files.rm(partial)

    def read_json(self, name: str) -> dict[str, Any]:
        """Return the object in a JSON file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        try:
            found: Any = json.loads(self.read(name))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{self.path(name)} is damaged ({error}): remove the folder, or choose another") from error
        if not isinstance(found, dict):
            raise ValueError(f"{self.path(name)} holds {type(found).__name__}, no study: choose another folder")
        return found

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write an object as JSON."""
        self.write(name, json.dumps(value, indent=2, ensure_ascii=True).encode())

    def read_frame(self, name: str) -> pd.DataFrame:
        """Return the frame in a Parquet file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged.
        """
        try:
            return pd.read_parquet(io.BytesIO(self.read(name)))
        except (pa.ArrowException, ValueError, KeyError) as error:
            raise ValueError(f"{self.path(name)} is damaged: {str(error).splitlines()[0][:150]}") from error

    def write_frame(self, name: str, frame: pd.DataFrame) -> None:
        """Write a frame as Parquet; the same frame gives the same bytes."""
        stream = io.BytesIO()
        frame.to_parquet(stream, index=False)
        self.write(name, stream.getvalue())

    @contextmanager
    def lock(self, name: str, *, wait: bool) -> Generator[bool]:
        """Hold the lock of a name; yield False where another process has it and ``wait`` is False.

        A lock ends with its process, however that ends. Away from this machine there are none: two runs may then
        compute one shard twice, and write the same bytes.
        """
        if not self.local:
            yield True
            return
        path = Path(self.path(f"locks/{name}.lock"))
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()
