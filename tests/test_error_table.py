"""Every message the package raises stands in the tables of docs/errors.md, with what to do about it.

A message's own words are compared, not the values put into it: three in a row, or all of a shorter one in their order.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "tl_neuron_attr"
WORDS = 3

NOT_SEEN = {
    "the return value must be": "a fault of the package itself, which no argument causes",
    "general.architecture": "becomes '... is cut off, or is no GGUF file' where the header is read",
    "a string ends behind the file": "the same",
    "name or prepend_bos": "two calls inside the package exclude each other",
}
"""Messages that no user meets."""


def raised(source: str) -> Iterator[list[str]]:
    """Yield the own words of every message that is raised or warned, the text between two values each by itself."""
    for node in ast.walk(ast.parse(source)):
        call = node.exc if isinstance(node, ast.Raise) else node
        warned = isinstance(call, ast.Call) and ast.unparse(call.func) == "warnings.warn"
        if isinstance(call, ast.Call) and call.args and (warned or isinstance(node, ast.Raise)):
            texts = [n.value for n in _parts(call.args[0]) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            if own := [" ".join(text.split()).strip(" ,:;(") for text in texts if re.search(r"[a-z]{2}", text)]:
                yield own


def _parts(message: ast.expr) -> Iterator[ast.expr]:
    if isinstance(message, ast.JoinedStr):
        yield from message.values
    elif isinstance(message, ast.BinOp):
        yield from (*_parts(message.left), *_parts(message.right))
    else:
        yield message


def rows() -> list[str]:
    """Return the messages in the first column of the tables."""
    lines = (ROOT / "docs/errors.md").read_text(encoding="utf-8").splitlines()
    return [span for line in lines if line.startswith("| ") for span in re.findall(r"`([^`]+)`", line.split(" | ")[0])]


def is_listed(message: list[str], listed: list[str]) -> bool:
    longest = max(len(text.split()) for text in message)
    if longest < WORDS:
        wanted = re.compile(".*?".join(map(re.escape, message)))
        return any(wanted.search(row) for row in listed)
    runs = [words[i : i + WORDS] for text in message if (words := text.split()) for i in range(len(words) - WORDS + 1)]
    return any(" ".join(run) in row for run in runs for row in listed)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_message_has_a_row(path):
    listed = [*rows(), *NOT_SEEN]
    missing = [message for message in raised(path.read_text(encoding="utf-8")) if not is_listed(message, listed)]
    assert not missing, f"docs/errors.md lacks {missing}"


def test_a_message_without_a_row_is_found():
    source = 'raise ValueError(f"{x} has no such thing as {y}")\nwarnings.warn("nobody wrote this down")'
    assert list(raised(source)) == [["has no such thing as"], ["nobody wrote this down"]]
    assert not is_listed(["has no such thing as"], rows()) and is_listed(["no such thing"], ["`x` has no such thing"])
    assert is_listed(["field", "is missing"], ["field 'layer' is missing"])
    assert not is_listed(["field", "is missing"], ["field 'layer' is unknown"])
