"""Tables of results as Markdown."""

import pandas as pd


def markdown(frame: pd.DataFrame, digits: int = 3) -> str:
    """Return a frame as a Markdown table; columns in nats keep two digits where the others have one."""
    formats = tuple(f".{max(digits, 2) if 'nats' in str(name) else digits}f" for name in frame.columns)
    return frame.to_markdown(index=False, floatfmt=formats)


def ranged(mean: float, low: float, high: float, spec: str = ".3f") -> str:
    """Return a mean with its interval."""
    return f"{mean:{spec}} [{low:{spec}}, {high:{spec}}]"
