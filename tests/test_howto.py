"""The how-to pages: their code runs from top to bottom, and prints what they show."""

import ast
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import pytest

from tests.test_notebooks import skip_without_its_models
from tl_neuron_attr.model.loading import BUNDLED

FOLDER = Path(__file__).parent.parent / "docs" / "howto"
PAGES = sorted(FOLDER.glob("*.md"))
LARGE = '"Qwen/Qwen2.5-7B"'
"""The bundled model stands in for it."""
BLOCK = re.compile(r"```python\n(?P<code>.*?)```(?:\n\n```text\n(?P<shown>.*?)```)?", re.DOTALL)


def printed(code: str, scope: dict) -> str:
    """What a notebook would show under a cell."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "page", "exec"), scope)
        value = None if last is None else eval(compile(ast.Expression(last.value), "page", "eval"), scope)
        if not isinstance(value, Path | None):  # where a file went says nothing
            print(value if hasattr(value, "table") or hasattr(value, "to_string") else repr(value))
    return out.getvalue().rstrip()


def rounded(text: str) -> list[str]:
    """Words, numbers to two decimals: the last digits, and the widths of columns, may differ between processors."""
    numbers = re.sub(r"[+-]?\d+\.\d+", lambda found: f"{float(found[0]):.2f}", text)
    return re.sub(r"-{2,}", "--", numbers).split()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_prints_what_it_shows(page, tmp_path, monkeypatch):
    skip_without_its_models(page.read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for block in BLOCK.finditer(page.read_text()):
        out = printed(block["code"].replace(LARGE, repr(str(BUNDLED))), scope)
        assert rounded(out) == rounded(block["shown"] or ""), block["code"]


def test_every_page_is_led_to_from_choose_a_method_and_shows_what_it_prints():
    choose = (FOLDER.parent / "choose.md").read_text()
    assert len(PAGES) == 6
    for page in PAGES:
        assert f"(howto/{page.name})" in choose
        assert any(block["shown"] for block in BLOCK.finditer(page.read_text()))
