"""Where a study keeps what it has found, prompt by prompt, so that it resumes where it stopped."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from tl_neuron_attr.evaluate.examine import Sizes
from tl_neuron_attr.evaluate.prompts import StudyPrompt
from tl_neuron_attr.evaluate.results import read_frame, write_frame
from tl_neuron_attr.model.fingerprint import model_fingerprint, require_no_hooks, tokenizer_fingerprint
from tl_neuron_attr.results import storage
from tl_neuron_attr.results.rows import read_utf8

Record = dict[str, Tensor]

_REMEDY = "choose another folder, or remove it"


@dataclass(frozen=True)
class StudyFolder:
    """A folder of a study's records, or None: then nothing is kept.

    Attributes:
        path: The folder.
    """

    path: Path | None

    @classmethod
    def of(
        cls,
        out: str | Path | None,
        model: Any,
        prompts: Sequence[StudyPrompt],
        sizes: Sizes,
        seed: int,
        every_neuron: bool,
    ) -> "StudyFolder":
        """Open or make the folder of a study.

        Raises:
            NotADirectoryError: If ``out`` is a file.
            ValueError: If it holds another study, naming the difference; or hooks are active on the model, which no
                later run could know of.
        """
        if out is None:
            return cls(None)
        require_no_hooks(model)
        folder = cls(Path(out))
        if Path(out).exists() and not Path(out).is_dir():
            raise NotADirectoryError(f"out={out} is a file: give a folder")
        for part in ("prompts", "cross", "specific"):
            (Path(out) / part).mkdir(parents=True, exist_ok=True)
        folder._require_same(_manifest(model, prompts, sizes, seed, every_neuron))
        return folder

    def selection(self, make: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the selection, made once."""
        if self.path is None:
            return make()
        path = self.path / "selection.parquet"
        if not path.exists():
            write_frame(path, make())
        return read_frame(path, "selection")

    def has(self, part: str, i: int) -> bool:
        """Return whether the record of prompt ``i`` is kept."""
        return self.path is not None and _file(self.path, part, i).exists()

    def record(self, part: str, i: int, make: Callable[[int], Record], names: Sequence[str]) -> Record:
        """Return the record of prompt ``i``, made once: tensors called ``names``.

        Raises:
            ValueError: If its file is damaged.
        """
        if self.path is None:
            return make(i)
        path = _file(self.path, part, i)
        if not path.exists():
            storage.save_tensors(path, f"study.{part}", make(i), {})
        found, _ = storage.load_tensors(path, f"study.{part}")
        if found.keys() != set(names):
            raise ValueError(f"{path} holds {sorted(found)}, expected {sorted(names)}: remove it to have it made anew")
        return found

    def _require_same(self, manifest: Mapping[str, Any]) -> None:
        assert self.path is not None
        path = self.path / "study.json"
        if not path.exists():
            storage.write_text(path, json.dumps(manifest, indent=2))
            return
        try:
            before: Any = json.loads(read_utf8(path))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged ({error}): {_REMEDY}") from error
        if not isinstance(before, dict):
            raise ValueError(f"{path} holds {type(before).__name__}, no study: {_REMEDY}")
        if different := [name for name, value in manifest.items() if before.get(name) != value]:
            raise ValueError(f"{self.path} holds a study of other {' and '.join(different)}: {_REMEDY}")


def _file(path: Path, part: str, i: int) -> Path:
    return path / part / f"{i:06d}.safetensors"


def _manifest(
    model: Any, prompts: Sequence[StudyPrompt], sizes: Sizes, seed: int, every_neuron: bool
) -> dict[str, Any]:
    """Return what makes two runs the same study."""
    text = json.dumps([asdict(prompt) for prompt in prompts])
    return {
        "model": model_fingerprint(model),
        "tokenizer": tokenizer_fingerprint(model),
        "layers": int(model.cfg.n_layers),
        "prompts": hashlib.sha256(text.encode()).hexdigest()[:32],
        "sizes": asdict(sizes),
        "seed": seed,
        "every_neuron": every_neuron,
        "version": version("tl_neuron_attr"),
    }
