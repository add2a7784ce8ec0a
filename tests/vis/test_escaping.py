from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr.results.token_text import printable
from tl_neuron_attr.vis.escaping import WORD_JOINER, harmless, harmless_tokens

_PIECES = ["<", ">", "&", "/", "!", "?", "a", "script", "#60;", "lt;", '"', " ", "--"]
texts = st.text() | st.lists(st.sampled_from(_PIECES)).map("".join)


class Reader(HTMLParser):
    """Collects the text of markup and refuses anything else in it."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""

    def handle_data(self, data):
        self.text += data

    def refuse(self, *args):
        raise AssertionError(args)

    handle_starttag = handle_endtag = handle_startendtag = handle_comment = handle_decl = handle_pi = refuse
    unknown_decl = refuse


@given(texts)
def test_harmless_text_is_only_text_to_a_parser_and_reads_the_same(text):
    reader = Reader()
    reader.feed(harmless(text))
    reader.close()
    assert reader.text.replace(WORD_JOINER, "") == printable(text).replace(WORD_JOINER, "")


@given(texts)
def test_harmless_text_never_ends_or_hides_a_script(text):
    assert "</" not in harmless(text) and "<!" not in harmless(text)


def test_every_token_has_a_place():
    assert harmless_tokens(["", "a", "<b>"]) == [" ", "a", f"<{WORD_JOINER}b>"]
