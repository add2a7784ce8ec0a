import torch

import tl_neuron_attr as tna
from tl_neuron_attr import demo
from tl_neuron_attr.incontext import from_demo
from tl_neuron_attr.incontext.static_scores import static_scores


@torch.no_grad()
def test_scores_are_those_of_each_prompt_alone():
    model = demo.load()
    prompts = [p for k in (4, 2) for p in from_demo(model, demo.in_context(3, k, seed=k))]
    for label in ("predicted", "gold"):
        found = static_scores(model, prompts, label=label, batch_size=4)
        for i, prompt in enumerate(prompts):
            logits, cache = model.run_with_cache(torch.tensor([prompt.tokens]))
            said = int(logits[0, -1, list(prompt.label_ids)].argmax())
            followed = prompt.gold if label == "gold" else said
            assert int(found.followed[i]) == followed
            expected = tna.attribute_heads(cache, prompt.label_ids[followed])[0]
            torch.testing.assert_close(found.increase[i], expected, atol=1e-4, rtol=1e-4)
            patterns = [cache[f"blocks.{layer}.attn.hook_pattern"][0, :, -1] for layer in range(model.cfg.n_layers)]
            on_labels = torch.stack(patterns)[..., list(prompt.label_positions)].sum(-1)
            torch.testing.assert_close(found.attention[i], on_labels, atol=1e-5, rtol=1e-5)
