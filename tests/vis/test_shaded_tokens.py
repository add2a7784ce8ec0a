import re

from tl_neuron_attr.vis.shaded_tokens import shaded_tokens


def test_tokens_are_shaded_by_size_and_sign_and_say_their_number():
    drawn = shaded_tokens([" cat", "<b>", "mat"], [2.0, -1.0, 0.0], largest=2.0, number_format="{:+.3g} nats")
    found = re.findall(r'<bdi class="([^"]+)" style="--share:([\d.]+)%" title="([^"]+)">([^<]*)</bdi>', drawn)
    assert found == [
        ("up strong", "100.0", "␣cat: +2 nats", "␣cat"),
        ("down", "50.0", "&lt;b&gt;: -1 nats", "&lt;b&gt;"),
        ("up", "0.0", "mat: +0 nats", "mat"),
    ]
