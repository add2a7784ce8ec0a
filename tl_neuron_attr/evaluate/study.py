"""The knowledge study of paper 1, sections 4.2 to 4.4: prompt by prompt, and able to go on where it stopped."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.evaluate.examine import CONDITIONS, Sizes, examine, outcomes
from tl_neuron_attr.evaluate.prompts import KEPT, StudyPrompt, select
from tl_neuron_attr.evaluate.results import KnowledgeStudy
from tl_neuron_attr.evaluate.tidy import tidy
from tl_neuron_attr.model import dimensions
from tl_neuron_attr.model.components import Component
from tl_neuron_attr.model.intervene import ablate
from tl_neuron_attr.model.tokens import prompt_ids
from tl_neuron_attr.results import storage

Record = dict[str, Tensor]


@typechecked
@torch.no_grad()
def knowledge_study(
    model: Any,
    prompts_by_type: Mapping[str, Sequence[StudyPrompt]],
    *,
    sizes: Sizes | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> KnowledgeStudy:
    """Where types of knowledge live: layers, heads, value and query neurons, and what zeroing them costs.

    Every kept prompt (:func:`~tl_neuron_attr.evaluate.select`) is scored in full, its value neurons, its query neurons
    and as many random ones are zeroed; then the best heads of each type are zeroed on every prompt.

    Args:
        model: The model.
        prompts_by_type: The prompts of each type of knowledge.
        sizes: How many neurons and heads; :meth:`Sizes.fitting` by default.
        out: A folder that keeps every prompt's results as they come. Run again with the same arguments, after being
            killed at any point, the study goes on where it stopped and gives the same results.
        seed: Of the random neurons.
        progress: Whether to show progress bars.

    Raises:
        ValueError: If no prompt is kept, or ``out`` holds a study of other prompts, sizes or another model.

    Examples:
        >>> import tl_neuron_attr as tna
        >>> facts = tna.evaluate.facts(["capital"], per_type=2)
        >>> found = knowledge_study(tna.demo.load(), facts, progress=False)
        >>> found.kept()["kept"].tolist()
        [2]
    """
    sizes = sizes or Sizes.fitting(model)
    prompts = [prompt for group in prompts_by_type.values() for prompt in group]
    store = _Store.at(out)
    store.require_same(_manifest(model, prompts, sizes, seed))
    selection = store.selection(lambda: select(model, prompts))
    kept = selection.index[selection["status"] == KEPT].tolist()
    if not kept:
        counts = selection["status"].value_counts().to_dict()
        raise ValueError(f"no prompt is kept by the selection rule: {counts}")

    def score(i: int) -> Record:
        return examine(model, prompts[i].prompt, int(selection["target_id"][i]), sizes=sizes, seed=seed + i)

    records = {i: store.record("prompts", i, score) for i in _bar(kept, "scoring prompts", progress)}
    types = [prompts[i].type for i in kept]
    best = {
        t: _best_heads([records[i] for i in kept if prompts[i].type == t], sizes.heads) for t in dict.fromkeys(types)
    }

    def zero_heads(i: int) -> Record:
        return _without_heads(model, prompts[i].prompt, int(selection["target_id"][i]), records[i], best)

    cross = {i: store.record("cross", i, zero_heads) for i in _bar(kept, "zeroing heads", progress)}
    width = dimensions.d_mlp(model, 0)
    study = tidy(selection, records, {i: c["outcomes"] for i, c in cross.items()}, list(best), width, asdict(sizes))
    if out is not None:
        study.save(out)
    return study


def _best_heads(records: Sequence[Record], share: float) -> list[Component]:
    """The best heads of a type, mean over its prompts: this share of all heads, at least one."""
    mean = torch.stack([record["heads"] for record in records]).mean(0)
    n = max(1, round(share * mean.numel()))
    return [divmod(i, mean.shape[1]) for i in mean.flatten().topk(n).indices.tolist()]


def _without_heads(model: Any, prompt: str, target: int, record: Record, best: Mapping[str, list[Component]]) -> Record:
    tokens = prompt_ids(model, prompt)[None]
    with ablate(model, list(best.values())):
        found = outcomes(model, tokens.expand(len(best), -1), target)
    untouched = record["outcomes"][CONDITIONS.index("untouched")]
    return {"outcomes": torch.cat([untouched[None], found])}


def _bar(indices: Sequence[int], what: str, progress: bool) -> Iterator[int]:
    yield from tqdm(indices, desc=what, unit="prompt", disable=not progress)


def _manifest(model: Any, prompts: Sequence[StudyPrompt], sizes: Sizes, seed: int) -> dict[str, Any]:
    """What makes two runs the same study."""
    text = json.dumps([asdict(prompt) for prompt in prompts])
    weights = model.W_U[:, :64].detach().float().cpu().numpy().tobytes()
    return {
        "model": hashlib.sha256(weights).hexdigest()[:16],
        "layers": int(model.cfg.n_layers),
        "prompts": hashlib.sha256(text.encode()).hexdigest()[:16],
        "sizes": asdict(sizes),
        "seed": seed,
    }


@dataclass(frozen=True)
class _Store:
    """Where results are kept as they come: a folder, or nowhere."""

    folder: Path | None

    @classmethod
    def at(cls, out: str | Path | None) -> "_Store":
        if out is None:
            return cls(None)
        for part in ("prompts", "cross"):
            (Path(out) / part).mkdir(parents=True, exist_ok=True)
        return cls(Path(out))

    def require_same(self, manifest: Mapping[str, Any]) -> None:
        """Refuse a folder that holds another study.

        Raises:
            ValueError: Naming the difference.
        """
        if self.folder is None:
            return
        path = self.folder / "study.json"
        if not path.exists():
            storage.write_text(path, json.dumps(manifest, indent=2))
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        different = [name for name in manifest if before.get(name) != manifest[name]]
        if different:
            raise ValueError(
                f"{self.folder} holds a study of other {' and '.join(different)}: choose another folder, or remove it"
            )

    def selection(self, make: Any) -> pd.DataFrame:
        """The selection, made once."""
        if self.folder is None:
            return make()
        path = self.folder / "selection.parquet"
        if not path.exists():
            partial = path.with_suffix(".partial")
            make().to_parquet(partial, index=False)
            partial.replace(path)
        return pd.read_parquet(path)

    def record(self, part: str, i: int, make: Any) -> Record:
        """The record of a prompt, made once; its file appears whole or not at all."""
        if self.folder is None:
            return make(i)
        path = self.folder / part / f"{i:06d}.safetensors"
        if not path.exists():
            storage.save(path, f"study.{part}", make(i), {})
        return storage.load(path, f"study.{part}")[0]
