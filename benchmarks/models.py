"""Random models of known shapes: their speed is that of trained ones, and no hub is needed."""

from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerFast

_WORDS = 50257
"""GPT-2's vocabulary."""


def gpt2(*, sharpness: float = 1.0, seed: int = 0, device: str = "cpu", **shape: int) -> TransformerBridge:
    """Return a random GPT-2; ``sharpness`` multiplies the final norm's weight and so makes predictions peaked."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = GPT2LMHeadModel(GPT2Config(**shape)).eval()
    model.transformer.ln_f.weight.data.mul_(sharpness)
    return booted(model, "gpt2-shaped", device)


def booted(model: PreTrainedModel, name: str, device: str = "cpu") -> TransformerBridge:
    """Return a model of transformers with random weights, booted."""
    model.config.architectures = [type(model).__name__]
    return TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=_tokenizer(), device=device)


def prompts(batch: int, length: int, *, vocabulary: int = 50257, seed: int = 0) -> torch.Tensor:
    """Return random token ids."""
    return torch.randint(0, vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def _tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of words ``w{i}``, on disk: TransformerLens boots no model without one to reload."""
    folder = Path(mkdtemp())
    known = {"<unk>": 0, "<bos>": 1, **{f"w{i}": i for i in range(2, _WORDS)}}
    words = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<bos>").save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)
