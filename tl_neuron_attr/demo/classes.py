"""The classes of the in-context tasks: adjectives of two sentiments, each of its own reliability, and topics.

An adjective's log-odds say how surely it marks a sentiment: from 7 ("always") down to 1 (73 % of the time).
"""

import math

from tl_neuron_attr.demo.hashing import Split, shuffled, split_of
from tl_neuron_attr.demo.text import words

SENTIMENTS = ("positive", "negative")
_POSITIVE = words(
    "great lovely wonderful excellent brilliant superb amazing fantastic delightful charming beautiful perfect "
    "terrific splendid marvelous enjoyable impressive stunning fresh clever fun sweet touching inspiring thrilling "
    "gorgeous graceful joyful pleasant outstanding cosy warm witty smart vivid crisp lively elegant radiant "
    "dazzling heartfelt uplifting moving polished refreshing engaging memorable captivating soothing masterful"
)
_NEGATIVE = words(
    "awful terrible horrible dreadful boring bad poor dull ugly nasty weak stupid lousy pathetic tedious annoying "
    "disgusting painful miserable bland clumsy sloppy messy dreary shallow tasteless hollow lame gloomy mediocre cold "
    "rude stale noisy drab vague soulless cheesy forgettable grating confusing dated bleak crude dismal horrid rotten "
    "flawed feeble wooden"
)
_WEAK_POSITIVE = words("okay decent fine fair nice solid")
_WEAK_NEGATIVE = words("slow odd strange long loud cheap")
NEUTRAL = words("new old recent usual common other local simple")
NOUNS = words(
    "movie plot film story actor scene book show song game meal hotel room service dinner music script ending dialogue "
    "cast director novel trip album"
)


def _graded(adjectives: list[str], sign: int) -> dict[str, float]:
    order = shuffled(adjectives, "reliability")
    return {w: sign * (7 - 6 * i / (len(order) - 1)) for i, w in enumerate(order)}


LOG_ODDS: dict[str, float] = {
    **_graded(_POSITIVE, 1),
    **_graded(_NEGATIVE, -1),
    **dict.fromkeys(_WEAK_POSITIVE, 0.5),
    **dict.fromkeys(_WEAK_NEGATIVE, -0.5),
}
"""Log-odds of ``positive`` of every adjective that has a sentiment."""

STRONG = [w for w, odds in LOG_ODDS.items() if abs(odds) > 2.5]
ORDINARY = [w for w, odds in LOG_ODDS.items() if abs(odds) >= 1]
WEAK = [w for w, odds in LOG_ODDS.items() if abs(odds) < 1.6]

TOPICS: dict[str, list[str]] = {
    topic: words(things)
    for topic, things in {
        "animal": "tiger lion horse dog cat wolf sheep goat rabbit monkey zebra camel",
        "food": "bread cheese rice pasta soup salad butter pizza steak cake noodle sausage",
        "tool": "hammer saw drill wrench chisel screwdriver pliers shovel axe rake ladder clamp",
        "vehicle": "car truck bus train boat plane bicycle tram ferry scooter van tractor",
        "clothes": "coat hat scarf glove sock jacket dress skirt sweater boot belt trousers",
        "body": "arm leg head foot knee elbow shoulder neck finger toe ear nose",
        "instrument": "piano violin guitar flute trumpet cello harp drum clarinet oboe banjo tuba",
        "furniture": "chair table sofa desk shelf lamp bed stool bench cabinet wardrobe mirror",
    }.items()
}


def probability(adjective: str, sentiment: str) -> float:
    """Return how often an adjective stands for a sentiment."""
    positive = 1 / (1 + math.exp(-LOG_ODDS[adjective]))
    return positive if sentiment == "positive" else 1 - positive


def item_split(adjective: str, noun: str) -> Split:
    """Return the split of an (adjective, noun) pair; held-out pairs are queried, never trained on."""
    return split_of("item", adjective, noun, held_out=0.10, tuning=0.05)
