"""Words that name a class in the in-context tasks, unrelated to what it means."""

from tl_neuron_attr.demo.text import words

NONSENSE = words(
    "foo bar baz qux quux zap wug dax blick fep tova gip lorp nim zib mep sarn tull vop yurt brill drat flim glon hask "
    "jolt kip lum mog nub ost plim quag rilk snop trell umf vask wex yop zorn alpha beta gamma delta epsilon kappa "
    "sigma omega A B C D E F G H X Y Z yes no true false left right up down one two group_1 group_2 type_1 type_2"
)
"""Labels in training."""

UNSEEN = words("zonk frim tweed cobalt maple brisk crag dune fern gourd hush ivy knoll latch moss opal")
"""Seen in copied sequences only, never as labels."""

UNSEEN_WORDS = ("red", "blue", "tennis", "golf", "Paris", "Rome", "March", "June")
"""Answers of facts, never labels."""
