"""The folder where converted models are kept: made by one process at a time, there whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

_PARTIAL = ".partial-"


def cache_folder() -> Path:
    """Return the cache directory: ``TNA_CACHE`` where it is set, else the user's cache directory."""
    given = os.environ.get("TNA_CACHE")
    return Path(given).expanduser() if given else user_cache_path("tl_neuron_attr")


def cached_folder(key: str) -> Path:
    """Return where a converted model is, or would be."""
    return cache_folder() / "models" / key


def made_once(key: str, make: Callable[[Path], None], *, needs: int) -> Path:
    """Return the folder of a converted model; make it first if it is not there.

    ``make`` fills a folder of its own, which then takes its name in one step, under a lock: other processes wait, and
    none ever sees half a model.

    Args:
        key: The folder's name.
        make: Fills the folder it is given.
        needs: Bytes that ``make`` will write at most.

    Raises:
        OSError: If the cache directory cannot be written or has too little room.
    """
    folder = cached_folder(key)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f"{key}.lock"):
            if not folder.is_dir():
                _make(folder, make, needs)
    except OSError as error:
        raise OSError(
            f"the converted model could not be kept in {folder.parent}: {error.strerror or error}.\n"
            "Set TNA_CACHE to a directory that can be written and has room; nothing half made is left behind"
        ) from error
    return folder


def _make(folder: Path, make: Callable[[Path], None], needs: int) -> None:
    for left in folder.parent.glob(f"{_PARTIAL}{folder.name}-*"):  # of a process that was killed: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    free = shutil.disk_usage(folder.parent).free
    if free < needs:
        raise OSError(f"it needs {needs / 1e9:.1f} GB and {free / 1e9:.1f} GB are free")
    partial = Path(tempfile.mkdtemp(prefix=f"{_PARTIAL}{folder.name}-", dir=folder.parent))
    try:
        make(partial)
        partial.chmod(0o777 & ~_umask())  # mkdtemp keeps others out; a cache may be shared
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
