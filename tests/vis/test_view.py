"""A view as a page and in a notebook: complete in itself, its title escaped."""

from html import unescape

from markupsafe import Markup

from tl_neuron_attr.vis.view import View

TITLE = '<b>"R&D"</b>'


def test_a_page_is_whole_and_asks_for_nothing(tmp_path):
    view = View(Markup("<p>hello</p>"), TITLE)
    page = view.save(tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == view.page() and page.startswith("<!doctype html>") and "<p>hello</p>" in page
    assert "<b>" not in page and "&lt;b&gt;" in page
    assert 'src="' not in page and 'href="' not in page.replace('href="data:', "")


def test_a_page_of_its_own_is_framed_whole_in_a_notebook():
    view = View(Markup('<p class="x">hello</p>'), TITLE, whole=True)
    shown = view._repr_html_()
    start = shown.index('srcdoc="') + len('srcdoc="')
    assert unescape(shown[start : shown.index('"', start)]) == view.page()
    assert shown.count("<iframe") == 1 and "<b>" not in shown


def test_a_piece_stands_in_the_cell_itself():
    shown = View(Markup("<p>hello</p>"), "x")._repr_html_()
    assert shown.endswith('<div class="tna"><p>hello</p></div>') and "<iframe" not in shown
