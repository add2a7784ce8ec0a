import gzip
import re
from base64 import b64decode

from tl_neuron_attr.vis.circuits import bundle


def test_the_bundle_carries_the_licence_of_circuitsvis():
    notice = bundle().partition("*/")[0]
    assert notice.startswith("/*!") and "MIT License" in notice and "Copyright (c)" in notice
    assert "The above copyright notice and this permission notice shall be included" in notice


def test_the_bundle_cannot_end_the_script_it_stands_in_and_is_packed():
    assert "</" not in bundle() and "<!--" not in bundle()
    packed = re.search(r'window.tnaPacked = "([^"]+)"', bundle())[1]
    script = gzip.decompress(b64decode(packed)).decode()
    assert script.endswith("window.CircuitsVis = CircuitsVis;") and "AttentionPattern" in script
    assert len(bundle()) < 0.45 * len(script)
