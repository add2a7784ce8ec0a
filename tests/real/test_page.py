"""A real model's page, written by the command and opened in a browser; the words on it are those of the model."""

import pytest

from tests.vis.browser import needs_browser, opened
from tl_neuron_attr.model.packaged_models import PACKAGED_MODELS

pytestmark = pytest.mark.slow
SAID = {"smollm2-135m": "Q4_1", "gemma3-270m": "Q4_K_M"}


@needs_browser
def test_the_page_names_licence_and_quantisation_and_opens(real, run, tmp_path):
    page = tmp_path / "page.html"
    args = ("--prompt", real.prompt, "--target", real.target, "--model", real.name, "-k", "10", "--heads", "2")
    code, out, err = run("report", *args, "--html", str(page))
    assert (
        code == 0
        and out.splitlines()[-1] == f"wrote {page}"
        and all(line.startswith("report:") for line in err.split("\r") if line.strip())
    )
    with opened(page) as shown:
        shown.wait_for("return document.readyState == 'complete'")
        text = str(shown.run("return document.body.innerText"))
        assert not shown.errors() and not shown.requests()
    assert PACKAGED_MODELS[real.name].licence in text and f"dequantised from {SAID[real.name]}" in text
    assert "Paris" in text


def test_the_bos_is_the_models_own(real):
    first = real.model.tokenizer.decode(real.plain.ids[0, :1])
    assert first == ("<bos>" if real.name == "gemma3-270m" else "The")
