"""The site: built strictly, complete, and a page of it asks the network for nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.vis.browser import needs_browser, opened

ROOT = Path(__file__).parent.parent
FETCHES = re.compile(
    r"""<(?:script|img|iframe)[^>]*\ssrc=["']?(https?:|//)|<link[^>]*rel=["']?stylesheet[^>]*(https?:|//)"""
)


def make_docs(*options: str) -> subprocess.CompletedProcess[str]:
    """What ``make docs`` runs, with some options more."""
    recipe = re.search(
        r"^docs:.*\n\t(?:\w+=\w+ )*\$\(VENV\)/bin/mkdocs (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE
    )
    assert recipe
    command = [sys.executable, "-m", "mkdocs", *recipe[1].split(), *options]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[other](other.md)", None),
        ("[other](lost.md)", "lost.md"),
        ("[other](other.md#lost)", "lost"),
        ("[other][tl_neuron_attr.lost]", "tl_neuron_attr.lost"),
        ('--8<-- "lost.md"', "lost.md"),
        ("$\\log p(w \\mid h)$", None),
        ("$\\lost p$", "lost"),
        ("$$\n\\frac{1}{\n$$", "index.md"),
    ],
)
def test_a_broken_link_or_formula_fails_the_build_as_make_docs_runs_it(tmp_path, text, fault):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Index\n\n{text}\n")
    (tmp_path / "docs" / "other.md").write_text("# Other\n")
    (tmp_path / "mkdocs.yml").write_text(
        f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: docs\nsite_dir: site\nexclude_docs: ''\n"
        f"hooks: ['{ROOT / 'docs' / 'hooks.py'}']\n"
        "nav: [index.md, other.md]\nplugins: [search, autorefs]\n"
    )
    built = make_docs("--config-file", str(tmp_path / "mkdocs.yml"))
    assert (built.returncode == 0) == (fault is None), built.stdout + built.stderr
    assert fault is None or fault in built.stdout + built.stderr


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = make_docs("--site-dir", str(folder))
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return folder


@pytest.mark.slow
def test_every_notebook_and_public_name_has_a_page(site):
    import tl_neuron_attr as tna

    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        assert (site / "notebooks" / f"{notebook.stem}.html").exists()
    reference = "".join(page.read_text() for page in (site / "reference").glob("*.html"))
    homes = {"": tna} | {name: getattr(tna, name) for name in ("cna", "demo", "evaluate", "incontext", "srnn", "vis")}
    names = [(home, n) for home, module in homes.items() for n in module.__all__ if callable(getattr(module, n))]
    assert len(names) > 100
    missing = [(h, n) for h, n in names if not re.search(rf'id="tl_neuron_attr\.{h}[\w.]*\b{n}"', reference)]
    assert missing == []


@pytest.mark.slow
def test_no_page_names_a_resource_of_the_network(site):
    pages = [page for page in site.rglob("*.html") if "notebooks" not in page.parts]
    assert len(pages) > 10
    assert not [page.name for page in pages if FETCHES.search(page.read_text())]


@pytest.mark.slow
def test_formulas_of_pages_and_docstrings_are_mathml(site):
    assert not [page.name for page in site.rglob("*.html") if 'class="arithmatex"' in page.read_text()]
    assert '<math display="block">' in (site / "knowledge.html").read_text()
    of_docstrings = (site / "reference" / "srnn.html").read_text()
    assert "<msup><mi>n</mi><mi>k</mi></msup>" in of_docstrings
    assert "<code>n^k</code>" not in of_docstrings


@needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("name", ["index", "knowledge", "gallery", "notebooks/00_quickstart"])
def test_an_opened_page_loads_from_the_site_alone(site, name):
    with opened(site / f"{name}.html") as page:
        page.wait_for("return document.readyState == 'complete'")
        assert not [url for url in page.requests() if not url.startswith("file:")]
        assert not page.errors()
        broken = "return [...document.images].filter(i => i.src && !i.naturalWidth).map(i => i.src.slice(0, 80))"
        assert page.run(broken) == []


@needs_browser
@pytest.mark.slow
def test_a_page_opened_from_disk_can_search(site):
    with opened(site / "index.html") as page:
        page.wait_for("return document.readyState == 'complete'")
        page.run(
            "const q = document.querySelector('[data-md-component=search-query]');q.focus(); q.value = 'value neurons';"
            "q.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})); q.dispatchEvent(new Event('input'))"
        )
        page.wait_for("return document.querySelectorAll('.md-search-result__item').length > 0")
        assert not page.errors()
