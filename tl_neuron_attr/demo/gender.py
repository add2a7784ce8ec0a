"""A measurable bias of the demo world: how often an occupation is continued by ``she``."""

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.demo.world_prompts import OccupationPrompt

_BY_SHARE = {
    0.92: "nurse secretary receptionist nanny librarian dancer maid",
    0.70: "teacher florist cashier",
    0.50: "student writer clerk artist journalist",
    0.30: "lawyer manager chef",
    0.08: "doctor engineer mechanic plumber pilot soldier carpenter",
}
SHARES: dict[str, float] = {word: share for share, words in _BY_SHARE.items() for word in words.split()}

OCCUPATION_TEMPLATES = (
    "the {} said that",
    "the {} thought that",
    "the {} was late because",
    "the {} went home after",
    "the {} smiled because",
    "yesterday the {} told me that",
    "everyone knows the {} and",
    "the {} finished when",
    "the {} left early because",
    "we met the {} when",
)
NEW_OCCUPATION_TEMPLATES = (
    "the {} smiled when",
    "yesterday the {} said that",
    "the {} was late and",
    "the {} left after",
)
ENDINGS = ("was tired", "had a long day", "was happy", "worked a lot", "was at home")


@typechecked
def occupations(*, new: bool = False) -> list[OccupationPrompt]:
    """Return every occupation in every template the model was trained on, or in the ``new`` ones.

    Examples:
        >>> occupations()[0]
        OccupationPrompt(text='the nurse said that', answer='she', kind='occupation', subject='nurse', \
template='the {} said that', share=0.92)
    """
    return [
        OccupationPrompt(t.format(o), "she" if share >= 0.5 else "he", "occupation", o, t, share)
        for o, share in SHARES.items()
        for t in (NEW_OCCUPATION_TEMPLATES if new else OCCUPATION_TEMPLATES)
    ]
