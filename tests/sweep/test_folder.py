"""Files of a study: whole or not at all, the same bytes each time, on disks and at URLs."""

import pandas as pd
import pytest

from tl_neuron_attr.sweep.folder import Folder


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path):
    return Folder.at(tmp_path / "study" if request.param == "disk" else f"memory://{tmp_path.name}/study")


def test_what_is_written_is_read_back_and_removed(folder):
    assert not folder.has("a/b.json")
    folder.write_json("a/b.json", {"type": "naïve"})
    assert folder.read_json("a/b.json") == {"type": "naïve"}
    folder.remove("a/b.json")
    folder.remove("a/b.json")
    assert not folder.has("a/b.json")


def test_frames_are_the_same_bytes_each_time(folder):
    frame = pd.DataFrame({"item": [1, 2], "heads": [[0.5, 1.0], [2.0, 3.0]]})
    for name in ("one.parquet", "two.parquet"):
        folder.write_frame(name, frame)
    assert folder.read("one.parquet") == folder.read("two.parquet")
    assert folder.read_frame("one.parquet")["heads"][1].tolist() == [2.0, 3.0]


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing", b"\x00" * 200])
def test_a_damaged_frame_is_named(folder, content):
    folder.write("part.parquet", content)
    with pytest.raises(ValueError, match=r"part\.parquet is damaged"):
        folder.read_frame("part.parquet")


@pytest.mark.parametrize("content", [b"[1]", b"{", b"null", b"[" * 100_000])
def test_json_that_is_no_object_is_refused(folder, content):
    folder.write("study.json", content)
    with pytest.raises(ValueError, match=r"study\.json"):
        folder.read_json("study.json")


def test_a_url_that_nothing_opens_is_refused():
    with pytest.raises(ValueError, match="can't be opened"):
        Folder.at("nosuchstore://bucket/study")


def test_a_failed_write_leaves_nothing(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    monkeypatch.setattr(type(folder.files), "pipe_file", full)
    with pytest.raises(OSError, match=r"part\.parquet could not be written"):
        folder.write("scores/part.parquet", b"data")
    assert [name for name in folder.files.find(folder.root) if "part" in name] == []


def test_a_lock_is_one_process_s_and_is_given_back(tmp_path):
    folder = Folder.at(tmp_path)
    again = Folder.at(tmp_path)
    with (
        folder.lock("scores-0", wait=False) as mine,
        again.lock("scores-0", wait=False) as theirs,
        folder.lock("scores-1", wait=False) as other,
    ):
        assert (mine, theirs, other) == (True, False, True)
    with folder.lock("scores-0", wait=False) as held:
        assert held
