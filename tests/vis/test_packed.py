"""What is packed comes back, and is the same each time."""

import gzip
from base64 import b64decode

from tl_neuron_attr.vis.packed import packed


def test_what_is_packed_comes_back_shorter_and_the_same_each_time():
    text = "<p>L12N1542 ␣Paris ü</p>" * 50
    assert gzip.decompress(b64decode(packed(text))).decode() == text
    assert packed(text) == packed(text) and len(packed(text)) < len(text) / 3
