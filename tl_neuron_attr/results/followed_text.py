"""What the scores of a result are of, as plain data: prompts, targets, contrasts, positions, the model's name."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tl_neuron_attr.results.plural import plural
from tl_neuron_attr.results.token_text import in_quotes, prompt_in_quotes

_LISTS = ("prompts", "targets", "contrasts")


@dataclass(frozen=True)
class FollowedText:
    """What was followed, one entry per prompt, so that a result says years later what it is of.

    Attributes:
        prompts: The text up to the position scored; empty where the cache does not hold its tokens.
        targets: The text of the token followed.
        contrasts: The text of the token it was compared with; empty without a contrast.
        positions: The position scored, counted from the start.
        model: The model's name.

    Examples:
        >>> print(FollowedText(("3 + 5 =",), ("8",), (), (4,), "demo"))
        "8" after "3 + 5 ="
    """

    prompts: tuple[str, ...]
    targets: tuple[str, ...]
    contrasts: tuple[str, ...]
    positions: tuple[int, ...]
    model: str

    def __str__(self) -> str:
        """Return target and prompt on one line where there is one prompt, else the number of prompts."""
        if len(self.targets) != 1:
            return plural(len(self.targets), "prompt")
        against = f" against {in_quotes(self.contrasts[0])}" if self.contrasts else ""
        return (
            in_quotes(self.targets[0])
            + against
            + (f" after {prompt_in_quotes(self.prompts[0])}" if self.prompts else "")
        )

    def of_prompt(self, prompt: int) -> "FollowedText":
        """Return what was followed in one prompt of a batch."""
        cut: dict[str, Any] = {name: getattr(self, name)[prompt:][:1] for name in (*_LISTS, "positions")}
        return replace(self, **cut)

    @classmethod
    def joined(cls, several: "Sequence[FollowedText]") -> "FollowedText":
        """Return what was followed in several groups of prompts as in one batch."""
        lists: dict[str, Any] = {
            name: tuple(each for one in several for each in getattr(one, name)) for name in (*_LISTS, "positions")
        }
        return cls(**lists, model=several[0].model)

    def as_json(self) -> dict[str, Any]:
        """Return the fields as a header of a result file holds them."""
        return asdict(self)

    @classmethod
    def of_json(cls, path: str | Path, found: object) -> "FollowedText":
        """Return what a header holds.

        Raises:
            ValueError: If it is not as :meth:`as_json` left it, naming the field.
        """
        if not isinstance(found, Mapping) or set(found) != {*_LISTS, "positions", "model"}:
            raise ValueError(f"{path}: field 'text.followed' must have {', '.join(_LISTS)}, positions and model")
        if not isinstance(found["model"], str):
            raise ValueError(f"{path}: field 'text.followed.model' must be a string")
        for name, kind in (*((name, str) for name in _LISTS), ("positions", int)):
            values = found[name]
            if not isinstance(values, list) or not all(type(value) is kind for value in values):
                raise ValueError(f"{path}: field 'text.followed.{name}' must be a list of {kind.__name__}")
        for name in (*_LISTS, "positions"):
            values = found[name]
            may_lack = name in ("prompts", "contrasts") and not values
            if len(values) != len(found["targets"]) and not may_lack:
                raise ValueError(f"{path}: field 'text.followed.{name}' must have one entry per prompt")
        lists: dict[str, Any] = {name: tuple(found[name]) for name in (*_LISTS, "positions")}
        return cls(**lists, model=found["model"])
