import torch

from tests import architectures
from tl_neuron_attr.model.norms import unit_norm


def test_a_norm_without_weight_has_a_weight_of_one():
    norm = unit_norm(architectures.build("olmo").ln_final, torch.float64, torch.zeros(32))
    assert norm.weight.tolist() == [1.0] * 32 and norm.centred
    offset = architectures.build("gemma").ln_final
    torch.testing.assert_close(unit_norm(offset, torch.float64, torch.zeros(32)).weight, 1 + offset.w)
