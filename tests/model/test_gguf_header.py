"""The header of a GGUF file: what it says, and every way in which a file can be cut off or damaged."""

import random
import struct

import gguf
import pytest

from tests import gguf_files
from tl_neuron_attr.model.gguf_header import read_gguf_header


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    kind = gguf.GGMLQuantizationType.Q8_0
    return gguf_files.write(tmp_path_factory.mktemp("gguf") / "tiny.gguf", gguf_files.llama(), kind=kind)


def test_it_says_what_the_gguf_package_says(file):
    header, reader = read_gguf_header(file), gguf.GGUFReader(str(file))
    assert header.architecture == "llama" and header.quantisation == "Q8_0"
    assert {name: tuple(shape) for name, shape in header.tensors.items()} == {
        tensor.name: tuple(int(n) for n in tensor.shape) for tensor in reader.tensors
    }
    assert header.n_weights == sum(int(tensor.n_elements) for tensor in reader.tensors)
    assert header.size == max(int(t.data_offset + t.n_bytes) for t in reader.tensors)
    scalars = {key: f.contents() for key, f in reader.fields.items() if f.types[0].name != "ARRAY"}
    assert header.values == {key: value for key, value in scalars.items() if not key.startswith("GGUF.")}


def test_a_file_cut_off_anywhere_is_refused(file, tmp_path):
    content = file.read_bytes()
    for length in [0, 3, 24, *random.Random(1).sample(range(25, read_gguf_header(file).size), 60)]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut.gguf is (invalid|cut off|not a GGUF)"):
            read_gguf_header(cut)


def test_a_file_of_24_bytes_has_a_head_and_one_of_23_has_none(tmp_path):
    bad = tmp_path / "bad.gguf"
    for size, message in ((23, "it has only 23 bytes"), (24, "begins with b'nope'")):
        bad.write_bytes(b"nope".ljust(size, b"\0"))
        with pytest.raises(ValueError, match=message):
            read_gguf_header(bad)


@pytest.mark.parametrize(
    "at, value, message",
    [
        (0, b"PK\3\4", "begins with b'PK"),
        (4, struct.pack("<I", 99), "version 99 cannot be read"),
        (8, struct.pack("<Q", 2**60), "cut off or damaged"),  # more tensors than any file has
        (16, struct.pack("<Q", 2**60), "cut off or damaged"),  # more entries
        (24, struct.pack("<Q", 2**62), "cut off or damaged"),  # a key longer than the file
    ],
)
def test_a_damaged_head_is_refused(file, tmp_path, at, value, message):
    content = bytearray(file.read_bytes())
    content[at : at + len(value)] = value
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_gguf_header(bad)


def test_random_damage_gives_a_header_or_a_value_error(file, tmp_path):
    content, chance = file.read_bytes(), random.Random(2)
    for _ in range(200):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[chance.randrange(4, 6000)] = chance.randrange(256)
        bad = tmp_path / "bad.gguf"
        bad.write_bytes(damaged)
        try:
            read_gguf_header(bad)
        except ValueError as error:
            assert "bad.gguf" in str(error) or "version" in str(error)
