"""Files appear whole or not at all, where they were meant, readable by whom others are."""

import errno
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tl_neuron_attr.results import storage

TENSORS = {"a": torch.arange(3.0)}


def save(path):
    storage.save_tensors(path, "test", TENSORS, {"text": "a\ud800"})


@pytest.fixture(params=[save, lambda path: storage.write_text(path, "text")], ids=["tensors", "text"])
def write(request):
    return request.param


def test_what_is_saved_is_read_back(tmp_path):
    save(tmp_path / "a")
    tensors, text = storage.load_tensors(tmp_path / "a", "test")
    assert torch.equal(tensors["a"], TENSORS["a"]) and text == {"text": "a\ud800"}


def test_a_half_character_is_written_as_its_escape(tmp_path):
    storage.write_text(tmp_path / "a", "é \ud83d")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "é \\ud83d"


def test_a_file_has_the_mode_new_files_have_here(tmp_path, write):
    before = os.umask(0o022)
    try:
        for mask, mode in ((0o022, 0o644), (0o027, 0o640), (0o077, 0o600)):
            os.umask(mask)
            write(tmp_path / f"{mask}")
            assert (tmp_path / f"{mask}").stat().st_mode & 0o777 == mode
        (tmp_path / "18").chmod(0o664)
        write(tmp_path / "18")
        assert (tmp_path / "18").stat().st_mode & 0o777 == 0o664, "a file that is replaced keeps its mode"
    finally:
        os.umask(before)


def test_a_link_is_written_through(tmp_path, write):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "file")
    for _ in range(2):
        write(tmp_path / "link")
        assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "file").stat().st_size
    assert [p.name for p in (tmp_path / "far").iterdir()] == ["file"]


def test_a_full_disk_leaves_nothing_and_says_one_line(tmp_path, monkeypatch, write):
    (tmp_path / "kept").write_text("before")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(storage, "save_file", full)
    monkeypatch.setattr(Path, "write_text", full)
    for name in ("kept", "new"):
        with pytest.raises(OSError, match=f"{name} could not be written: No space left on device") as error:
            write(tmp_path / name)
        assert error.value.errno == errno.ENOSPC and "\n" not in str(error.value)
    assert (tmp_path / "kept").read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_a_folder_or_a_missing_one_is_named(tmp_path, write):
    (tmp_path / "folder").mkdir()
    for name, error in (("folder", IsADirectoryError), ("absent/file", FileNotFoundError)):
        with pytest.raises(error, match=f"{name} could not be written"):
            write(tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_pipe_is_never_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe could not be written: it is no file"):
        save(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as pool:
        read = pool.submit((tmp_path / "pipe").read_text)
        storage.write_text(tmp_path / "pipe", "through")
        assert read.result(timeout=10) == "through"
    assert (tmp_path / "pipe").is_fifo() and [p.name for p in tmp_path.iterdir()] == ["pipe"]


def _many(path):
    for _ in range(30):
        save(path)
        storage.load_tensors(path, "test")
    return True


def test_processes_that_save_one_path_do_not_meet(tmp_path):
    with ProcessPoolExecutor(2) as pool:
        assert list(pool.map(_many, [tmp_path / "a"] * 2)) == [True, True]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    save(tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    for size in (0, 4, 20, len(whole) - 1):
        (tmp_path / "a").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="is not a result file"):
            storage.load_tensors(tmp_path / "a", "test")


def test_a_name_below_a_file_or_with_a_nul_is_refused_by_name(write, tmp_path):
    (tmp_path / "file").write_text("kept")
    with pytest.raises(NotADirectoryError, match="file/x could not be written: Not a directory"):
        write(tmp_path / "file" / "x")
    with pytest.raises(ValueError, match="holds a NUL"):
        write(f"{tmp_path}/a\0b")
    with pytest.raises(ValueError, match=r"path=.. is empty: give the file a name"):
        write("")
    assert [each.name for each in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "kept"
