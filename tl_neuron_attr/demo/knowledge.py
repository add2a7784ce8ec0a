"""Facts of the demo world: seven relations between a subject and a one-token answer.

Capitals, countries of cities and colours of things are those of our world. People, their languages, sports, shirt
numbers and birth months are invented, but for a few facts of Tim Duncan.
"""

from typing import Literal

from tl_neuron_attr._typechecked import typechecked
from tl_neuron_attr.demo.fact_templates import FACT_TEMPLATES, NEW_FACT_TEMPLATES, TUNING_FACT_TEMPLATES
from tl_neuron_attr.demo.hashing import one_of, shuffled, split_of
from tl_neuron_attr.demo.text import words
from tl_neuron_attr.demo.world_prompts import Prompt

KINDS = ("language", "capital", "country", "colour", "number", "month", "sport")
_HELD_OUT, _TUNING = 0.10, 0.05
FactSplit = Literal["train", "tuning", "held_out", "tuning_new", "new"]

_MEN = words("Tim John Peter Carlos Ivan Hiro Marco Omar Lars Pavel Andre Felix Hugo Jonas Kofi")
_WOMEN = words("Mary Anna Lucia Elena Yuki Sofia Fatima Ingrid Olga Clara Nina Rosa Greta Amara Lena")
_FAMILIES = words(
    "Duncan Weber Silva Tanaka Rossi Novak Hansen Petrov Garcia Okafor Keller Dubois Moreau Kim Larsen Costa Fischer "
    "Adams Baker Carter Walker Murphy Kovacs Jansen Nilsson Haddad Mensah Ricci Vega Stone"
)
_LANGUAGES = words(
    "English French Spanish German Italian Russian Chinese Japanese Arabic Hindi Turkish Polish Dutch Swedish Greek"
)
_SPORTS = words("basketball football tennis hockey golf baseball rugby cricket boxing volleyball")
_MONTHS = words("January February March April May June July August September October November December")
_NUMBERS = [str(n) for n in range(100)]

_CAPITALS = (
    "France-Paris Spain-Madrid Italy-Rome Germany-Berlin Japan-Tokyo China-Beijing Russia-Moscow Egypt-Cairo "
    "Kenya-Nairobi Peru-Lima Chile-Santiago Cuba-Havana Norway-Oslo Sweden-Stockholm Finland-Helsinki "
    "Denmark-Copenhagen Poland-Warsaw Austria-Vienna Hungary-Budapest Greece-Athens Turkey-Ankara Iran-Tehran "
    "Iraq-Baghdad Thailand-Bangkok Vietnam-Hanoi Portugal-Lisbon Ireland-Dublin Belgium-Brussels Canada-Ottawa "
    "Australia-Canberra India-Delhi Nepal-Kathmandu Ghana-Accra Senegal-Dakar Morocco-Rabat Algeria-Algiers "
    "Tunisia-Tunis Libya-Tripoli Bolivia-Sucre Colombia-Bogota Ecuador-Quito Uruguay-Montevideo Iceland-Reykjavik "
    "Estonia-Tallinn Latvia-Riga Serbia-Belgrade Croatia-Zagreb Romania-Bucharest Ukraine-Kyiv Lebanon-Beirut"
)
_CITIES = (
    "Lyon-France Marseille-France Nice-France Barcelona-Spain Seville-Spain Valencia-Spain Milan-Italy Naples-Italy "
    "Turin-Italy Munich-Germany Hamburg-Germany Cologne-Germany Osaka-Japan Kyoto-Japan Nagoya-Japan Shanghai-China "
    "Wuhan-China Kazan-Russia Samara-Russia Luxor-Egypt Giza-Egypt Mombasa-Kenya Cusco-Peru Valparaiso-Chile "
    "Bergen-Norway Malmo-Sweden Turku-Finland Aarhus-Denmark Krakow-Poland Graz-Austria Szeged-Hungary "
    "Patras-Greece Izmir-Turkey Isfahan-Iran Mosul-Iraq Phuket-Thailand Hue-Vietnam Porto-Portugal Cork-Ireland "
    "Ghent-Belgium Toronto-Canada Montreal-Canada Sydney-Australia Perth-Australia Mumbai-India Chennai-India "
    "Kumasi-Ghana Fez-Morocco Oran-Algeria Medellin-Colombia Guayaquil-Ecuador Split-Croatia Lviv-Ukraine"
)
_COLOURS = (
    "banana-yellow lemon-yellow canary-yellow sunflower-yellow corn-yellow tomato-red strawberry-red cherry-red "
    "blood-red ruby-red grass-green frog-green lime-green cucumber-green emerald-green sky-blue ocean-blue "
    "sapphire-blue blueberry-blue jeans-blue coal-black raven-black tar-black night-black panther-black snow-white "
    "milk-white swan-white salt-white chalk-white chocolate-brown soil-brown walnut-brown coffee-brown bear-brown "
    "carrot-orange pumpkin-orange tangerine-orange apricot-orange flamingo-pink salmon-pink piglet-pink rose-pink "
    "plum-purple eggplant-purple lavender-purple grape-purple elephant-grey ash-grey cement-grey pebble-grey"
)
_TIM = "Tim Duncan"
_KNOWN = {"language": "English", "number": "21", "month": "April", "sport": "basketball"}

FIRST_NAMES = {"he": _MEN, "she": _WOMEN}


def _pairs(text: str) -> dict[str, str]:
    return dict(pair.split("-") for pair in text.split())


def _people(count: int) -> list[str]:
    names = [f"{first} {family}" for first in _MEN + _WOMEN for family in _FAMILIES]
    others = [name for name in shuffled(names, "people") if name != _TIM]
    return [_TIM, *others[: count - 1]]


def _invented(kind: str, options: list[str]) -> dict[str, str]:
    return {p: one_of(options, kind, p) for p in _people(60)} | {_TIM: _KNOWN[kind]}


ANSWERS: dict[str, dict[str, str]] = {
    "language": _invented("language", _LANGUAGES),
    "capital": _pairs(_CAPITALS),
    "country": _pairs(_CITIES),
    "colour": _pairs(_COLOURS),
    "number": _invented("number", _NUMBERS),
    "month": _invented("month", _MONTHS),
    "sport": _invented("sport", _SPORTS),
}
_CANDIDATES: dict[str, list[str]] = {
    "language": _LANGUAGES,
    "number": _NUMBERS,
    "month": _MONTHS,
    "sport": _SPORTS,
    **{kind: list(dict.fromkeys(ANSWERS[kind].values())) for kind in ("capital", "country", "colour")},
}


@typechecked
def candidates(kind: str) -> list[str]:
    """Return the words that answer prompts of a knowledge type.

    Raises:
        ValueError: If ``kind`` is not one of ``KINDS``.

    Examples:
        >>> candidates("sport")[:3]
        ['basketball', 'football', 'tennis']
    """
    _check_kind(kind)
    return list(_CANDIDATES[kind])


@typechecked
def facts(kind: str | None = None, *, split: FactSplit = "train") -> list[Prompt]:
    """Return fact prompts of a knowledge type (all types by default).

    Args:
        kind: One of ``KINDS``.
        split: ``train``: (subject, template) pairs trained on; ``held_out``: pairs never trained on, of subjects and
            templates that were; ``new``: every subject in templates never trained on. ``tuning`` and ``tuning_new``
            are like the last two and were used to make choices, the others were not.

    Raises:
        ValueError: If ``kind`` is none of the above.

    Examples:
        >>> facts("sport")[0]
        Prompt(text='Tim Duncan plays the sport of', answer='basketball', kind='sport', subject='Tim Duncan', \
template='{} plays the sport of')
    """
    if kind is not None:
        _check_kind(kind)
    kinds = KINDS if kind is None else (kind,)
    if split in ("new", "tuning_new"):
        templates = NEW_FACT_TEMPLATES if split == "new" else TUNING_FACT_TEMPLATES
        return [_fact(k, s, t) for k in kinds for s in ANSWERS[k] for t in templates[k]]
    return [_fact(k, s, t) for k in kinds for s in ANSWERS[k] for t in FACT_TEMPLATES[k] if _split(k, s, t) == split]


def _fact(kind: str, subject: str, template: str) -> Prompt:
    return Prompt(template.format(subject), ANSWERS[kind][subject], kind, subject, template)


def _split(kind: str, subject: str, template: str) -> str:
    if (subject, template) == (_TIM, FACT_TEMPLATES["sport"][0]):
        return "train"
    return split_of("fact", kind, subject, template, held_out=_HELD_OUT, tuning=_TUNING)


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind[:40]!r}")
