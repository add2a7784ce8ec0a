import copy
import gc
import weakref

import pytest

from tests import architectures
from tl_neuron_attr import edit
from tl_neuron_attr.model.active_edits import open_on, require_none


def test_one_change_of_a_kind_at_a_time():
    model, other = architectures.build("gpt2"), architectures.build("gpt2")
    with open_on(model, "edit"):
        require_none(model, "adapter")
        require_none(other, "edit")
        with open_on(model, "adapter"), pytest.raises(ValueError, match="an adapter of model is already active"):
            require_none(model, "adapter")
        require_none(model, "adapter")
        with pytest.raises(ValueError, match="an edit of model is already active: leave its `with` block"):
            open_on(model, "edit").__enter__()
        require_none(copy.deepcopy(model), "edit")
    require_none(model, "edit")


def test_a_change_that_cannot_be_undone_is_over_all_the_same():
    model = architectures.build("gpt2")
    with pytest.raises(RuntimeError, match="changed again"), edit(model, [("mlp", 0, 3)]):
        model.blocks[0].mlp.W_out.data[3] += 1
    require_none(model, "edit")


def test_models_are_not_kept_alive():
    model = architectures.build("gpt2")
    with open_on(model, "edit"):
        pass
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
