from hypothesis import given
from hypothesis import strategies as st

from tl_neuron_attr.demo.text import words


@given(st.lists(st.text(alphabet="abc", min_size=1, max_size=3)), st.sampled_from([" ", "  ", " \n "]))
def test_words_come_back_whatever_the_space_between_them(given_words, space):
    assert words(space.join(given_words)) == given_words
