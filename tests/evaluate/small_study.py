"""What the tests of a knowledge study share: its sizes, its frames, and when two studies are the same."""

import pandas as pd

from tl_neuron_attr.evaluate import Sizes

SIZES = Sizes(value_attn=12, value_mlp=6, query=40, shared=10, heads=0.1)
FRAMES = ("layers", "heads", "sums", "query_layers", "outcomes", "cross", "specificity", "neurons", "segments")


def same(first, second):
    for name in ("selection", *FRAMES):
        pd.testing.assert_frame_equal(getattr(first, name), getattr(second, name))
