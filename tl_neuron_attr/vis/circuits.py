"""The script of circuitsvis, which draws attention: from inside its package, packed, no network."""

from functools import cache
from importlib.metadata import distribution
from importlib.resources import files

from circuitsvis import __version__ as CIRCUITSVIS
from markupsafe import Markup

from tl_neuron_attr.vis.packed import packed
from tl_neuron_attr.vis.templates import asset


@cache
def bundle() -> Markup:
    """Return a script, under circuitsvis' licence, that unpacks ``window.CircuitsVis``; ``tnaCircuitsVis`` awaits it.

    It stands in every page and notebook that draws attention.
    """
    script = files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    text = packed(f"{script}\nwindow.CircuitsVis = CircuitsVis;")
    return Markup(f'{_notice()}\nwindow.tnaPacked = "{text}";\n{asset("unpack.js")}\n{asset("circuits.js")}')


def _notice() -> str:
    """Return circuitsvis' licence as a comment that minifiers keep and that cannot end the script it stands in."""
    licences = [file for file in distribution("circuitsvis").files or () if file.stem.upper() in ("LICENSE", "LICENCE")]
    text = licences[0].read_text() if licences else "MIT License. Copyright (c) Alan Cooney"
    return f"/*! circuitsvis {CIRCUITSVIS}\n\n{text.strip().replace('*/', '* /').replace('</', '< /')}\n*/"
