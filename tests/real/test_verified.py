"""What taking heads and sublayers out costs on real models, against hooks on plain transformers."""

import pytest
import torch

from tl_neuron_attr.evaluate import verify_components

pytestmark = pytest.mark.slow


def test_heads_and_sublayers_cost_what_plain_transformers_loses(real):
    layer = real.model.cfg.n_layers * 2 // 3
    block, width = real.plain.model.model.layers[layer], real.model.blocks[layer].attn.W_O.shape[1]
    whole = slice(None)
    out, down = block.self_attn.o_proj, block.mlp.down_proj
    cases = [((layer, 1), out, slice(width, 2 * width)), (("attn", layer), out, whole), (("mlp", layer), down, whole)]
    expected = [left(real, module, columns) for _, module, columns in cases]
    found = verify_components(real.model, real.prompt, [each for each, *_ in cases], real.target, progress=False)
    assert (found.log_prob - found.effect).tolist() == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def left(real, module, columns):
    """Log p with some columns of what a projection reads set to zero."""

    def zero(_, args):
        read = args[0].clone()
        read[..., columns] = 0
        return (read,)

    hook = module.register_forward_pre_hook(zero)
    try:
        return float(real.plain.model(real.plain.ids).logits[0, -1].double().log_softmax(-1)[real.target_id])
    finally:
        hook.remove()
