"""Run the code that the gallery shows and photograph what it draws: ``python scripts/gallery.py``.

Writes docs/gallery.md, docs/images/gallery and the README's picture, which is of Gemma 3 270M; needs Debian's
chromium and chromium-driver. A few minutes.
"""

import argparse
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from PIL import Image, ImageChops
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait
from tqdm import tqdm

from tl_neuron_attr.vis import View

DOCS = Path(__file__).parent.parent / "docs"
WIDTH, REPORT_WIDTH, COLOURS = 1100, 1280, 128
SETTLE_MS = 1500
"""How long a page may draw before it is photographed."""


ONLY_SHOWN = """
const shown = ['Which layers raised it', 'What else it could have said', 'How it flowed', 'The value neurons'];
for (const part of document.querySelectorAll('section'))
    if (!shown.includes(part.querySelector('h2')?.textContent)) part.style.display = 'none';
"""
"""Keeps the parts of a report that can be read without a pointer."""


class Picture(NamedTuple):
    """One entry: the code's last line gives the view."""

    name: str
    title: str
    page: str
    code: str


SET_UP = """
import tl_neuron_attr as tna

model = tna.demo.load()
prompt, target = "Tim Duncan plays the sport of", " basketball"
_, cache = model.run_with_cache(prompt)
"""

PICTURES = [
    Picture("layers", "Which layers raised the answer", "knowledge.md", """
tna.vis.layer_scores(tna.attribute_layers(cache, target))
"""),
    Picture("heads", "Which heads", "knowledge.md", """
tna.vis.head_scores(tna.attribute_heads(cache, target))
"""),
    Picture("sources", "Which tokens the heads read", "knowledge.md", """
value = tna.value_neurons(cache, target, k=30)
sources = tna.attribute_head_positions(cache, target)[0]
layers, heads = zip(*value.heads[:5])
names = [f"L{layer}H{head}" for layer, head in value.heads[:5]]
tna.vis.source_scores(model.to_str_tokens(prompt), sources[layers, heads], labels=names)
"""),
    Picture("neurons", "Which neurons", "knowledge.md", """
tna.vis.neurons(tna.value_neurons(cache, target, k=12))
"""),
    Picture("flow", "How it flowed, from the tokens to the answer", "knowledge.md", """
tna.vis.flow(tna.trace(cache, target))
"""),
    Picture("logit_flow", "Where along the prompt it became likelier", "knowledge.md", """
tna.vis.logit_flow(tna.logit_flow(cache, target))
"""),
    Picture("attention", "Where heads attend", "knowledge.md", """
tna.vis.attention(cache, [(3, 6), (3, 5)])
"""),
    Picture("faithfulness", "Which score finds neurons that matter", "knowledge.md", """
from tl_neuron_attr.evaluate import facts, faithfulness

asked = [p for prompts in facts(per_type=8).values() for p in prompts]
tna.vis.faithfulness(faithfulness(model, [p.prompt for p in asked], [p.target for p in asked], curve=(1, 3, 10, 30)))
"""),
    Picture("label_sources", "Where in-context heads look", "incontext.md", """
from tl_neuron_attr import incontext

prompts = incontext.from_demo(model, tna.demo.in_context(100, 4, counts=(2, 2)))
_, cache = model.run_with_cache(incontext.batch_of(model, prompts).tokens)
tna.vis.label_sources(cache, prompts, [(3, 6), (2, 7), (2, 4)])
"""),
    Picture("label_differences", "What they copy", "incontext.md", """
from tl_neuron_attr import incontext

prompts = incontext.from_demo(model, tna.demo.in_context(100, 4, counts=(2, 2)))
_, cache = model.run_with_cache(incontext.batch_of(model, prompts).tokens)
tna.vis.label_differences(cache, prompts, [(3, 6), (2, 7), (2, 4), (3, 5)], weighted=False)
"""),
    Picture("tower_split", "What two towers compare", "incontext.md", """
from tl_neuron_attr import incontext

prompts = incontext.from_demo(model, tna.demo.in_context(100, 4, counts=(2, 2)))
_, cache = model.run_with_cache(incontext.batch_of(model, prompts).tokens)
tna.vis.tower_split(incontext.two_towers(cache, prompts, layer=3, head=6))
"""),
    Picture("learned_metric", "Do the towers measure similarity", "incontext.md", """
from tl_neuron_attr import incontext

prompts = incontext.from_demo(model, tna.demo.in_context(100, 4, counts=(2, 2)))
tna.vis.learned_metric(incontext.learned_metric(model, prompts, heads=[(3, 6), (2, 7), (2, 4), (3, 5)]))
"""),
    Picture("head_effects", "What each head is worth", "cna.md", """
tna.vis.head_effects(tna.head_effects(model, "6 * 7 =", "42"))
"""),
    Picture("logic_chain", "How arithmetic gets from the digits to the answer", "cna.md", """
tna.vis.chain_flow(tna.cna.logic_chain(model, "6 * 7 ="))
"""),
    Picture("bias", "A bias before and after an edit", "editing.md", """
from tl_neuron_attr import cna

women, men = ("nurse", "secretary", "maid"), ("doctor", "engineer", "carpenter")
pairs = [(f"the {a} said that", f"the {b} said that") for a, b in zip(women, men)]
fresh = [(f"the {a} was late because", f"the {b} was late because") for a, b in zip(women, men)]
neurons = cna.bias_neurons(model, pairs, ("she", "he"), 18, sites=("attn",))
tna.vis.bias(cna.bias_report(model, neurons, fresh, ("she", "he"), sides=("she", "he"), found_on=pairs))
"""),
]  # fmt: skip


def drawn(picture: Picture) -> View:
    """Return the view that the picture's code ends with."""
    scope: dict[str, object] = {}
    *before, last = (SET_UP + picture.code).strip().splitlines()
    exec("\n".join(before), scope)
    return eval(last, scope)


def photograph(driver: webdriver.Chrome, view: View, path: Path, *, first: str = "", width: int = WIDTH) -> None:
    """Save the view as a picture cropped to what is drawn; ``first`` is a script that runs before."""
    with TemporaryDirectory() as folder:
        driver.set_window_size(width, 900)
        driver.get(view.save(Path(folder) / "view.html").as_uri())
        WebDriverWait(driver, 30).until(lambda d: d.execute_script("return document.readyState") == "complete")
        driver.execute_script(first)
        driver.execute_async_script(f"setTimeout(arguments[0], {SETTLE_MS})")
        driver.set_window_size(width, 240 + int(driver.execute_script("return document.body.scrollHeight")))
        taken = Image.open(BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    blank = Image.new("RGB", taken.size, taken.getpixel((2, 2)))
    box = ImageChops.difference(taken, blank).getbbox() or (0, 0, *taken.size)
    margin = (max(0, box[0] - 12), max(0, box[1] - 12), min(taken.width, box[2] + 12), min(taken.height, box[3] + 12))
    taken.crop(margin).quantize(COLOURS).save(path, optimize=True)


def report_picture(driver: webdriver.Chrome, path: Path) -> None:
    """Save the README's picture: parts of the report of a real model's prediction."""
    import tl_neuron_attr as tna

    _, cache = tna.load("gemma3-270m").run_with_cache("The Eiffel Tower is in the city of")
    photograph(driver, tna.vis.report(cache, " Paris", k=10), path, first=ONLY_SHOWN, width=REPORT_WIDTH)


def page(pictures: list[Picture]) -> str:
    """Return the gallery as Markdown: each picture, then the code that draws it."""
    parts = [f"# Gallery\n\nEach picture is followed by the code that drew it. All begin with\n\n```python{SET_UP}```"]
    for picture in pictures:
        image = f"![{picture.title}](images/gallery/{picture.name}.png)"
        parts.append(
            f"## {picture.title}\n\n{image}\n\n```python{picture.code}```\n\nMore: [{picture.page}]({picture.page})"
        )
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Draw and photograph every picture, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help="names of pictures to draw anew; all by default")
    only = parser.parse_args().only
    folder = DOCS / "images" / "gallery"
    folder.mkdir(parents=True, exist_ok=True)
    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
    try:
        for picture in tqdm([p for p in PICTURES if not only or p.name in only]):
            photograph(driver, drawn(picture), folder / f"{picture.name}.png")
        if not only or "report" in only:
            report_picture(driver, DOCS / "images" / "report.png")
    finally:
        driver.quit()
    (DOCS / "gallery.md").write_text(page(PICTURES))


if __name__ == "__main__":
    main()
