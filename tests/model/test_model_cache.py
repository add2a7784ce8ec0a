"""The cache of converted models: whole or not there, also with several processes, a full disk and a broken folder."""

import shutil
import subprocess
import sys
from collections import namedtuple

import pytest

from tl_neuron_attr.model.model_cache import cache_folder, cached_folder, made_once


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TNA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def one_file(folder):
    (folder / "weights").write_text("whole")


def test_the_environment_says_where_and_else_the_user(cache, monkeypatch):
    assert cache_folder() == cache.parent
    monkeypatch.delenv("TNA_CACHE")
    assert "tl_neuron_attr" in str(cache_folder())


def test_it_is_made_once(cache):
    made = [made_once("m", one_file, needs=1) for _ in range(2)]
    assert made == [cached_folder("m")] * 2 and (made[0] / "weights").read_text() == "whole"
    assert made_once("m", lambda _: pytest.fail("made again"), needs=1) == made[0]
    assert made[0].stat().st_mode & 0o055 or sys.platform == "win32"


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_what_fails_leaves_nothing(cache, error):
    def fails(folder):
        one_file(folder)
        raise error

    with pytest.raises((type(error), OSError)):
        made_once("m", fails, needs=1)
    assert [path.name for path in cache.iterdir() if path.suffix != ".lock"] == []
    assert made_once("m", one_file, needs=1).is_dir()


def test_what_a_killed_process_left_is_cleared(cache):
    left = cache / ".partial-m-abc"
    left.mkdir(parents=True)
    one_file(left)
    made_once("m", one_file, needs=1)
    assert not left.exists()


def test_a_disk_without_room_is_named_before_the_work(cache, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(OSError, match=r"needs 2.0 GB and 0.0 GB are free.\nSet TNA_CACHE"):
        made_once("m", lambda _: pytest.fail("worked"), needs=2_000_000_000)


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "cache", "/proc/nowhere"):
        monkeypatch.setenv("TNA_CACHE", str(folder))
        with pytest.raises(OSError, match=r"could not be kept in .*\nSet TNA_CACHE"):
            made_once("m", one_file, needs=1)


def test_two_processes_at_once_make_one(cache, tmp_path):
    code = f"""
import time
from pathlib import Path
from tl_neuron_attr.model.model_cache import made_once

def make(folder):
    with open({str(tmp_path / "made")!r}, "a") as log:
        log.write("made\\n")
    time.sleep(.5)
    (folder / "weights").write_text("whole")

folder = made_once("m", make, needs=1)
print((folder / "weights").read_text())
"""
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0] for process in started] == ["whole\n"] * 3
    assert (tmp_path / "made").read_text() == "made\n"
