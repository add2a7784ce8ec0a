"""The script of circuitsvis, which draws attention: from inside its package, packed, no network."""

import gzip
from base64 import b64encode
from functools import cache
from importlib.metadata import distribution
from importlib.resources import files

from circuitsvis import __version__ as CIRCUITSVIS
from markupsafe import Markup

from tl_neuron_attr.vis.templates import asset


@cache
def bundle() -> Markup:
    """Return a script, under circuitsvis' licence, that unpacks ``window.CircuitsVis``; ``tnaCircuitsVis`` awaits it.

    Packed (gzip in base64, which browsers unpack themselves) it takes a third of its size, in every page and notebook
    that draws attention; the same bytes each time.
    """
    script = files("circuitsvis").joinpath("dist/cdn/iife.js").read_text(encoding="utf-8")
    packed = b64encode(gzip.compress(f"{script}\nwindow.CircuitsVis = CircuitsVis;".encode(), mtime=0)).decode()
    return Markup(f'{_notice()}\nwindow.tnaPacked = "{packed}";\n{asset("circuits.js")}')


def _notice() -> str:
    """Return circuitsvis' licence as a comment that minifiers keep and that cannot end the script it stands in."""
    licences = [file for file in distribution("circuitsvis").files or () if file.stem.upper() in ("LICENSE", "LICENCE")]
    text = licences[0].read_text() if licences else "MIT License. Copyright (c) Alan Cooney"
    return f"/*! circuitsvis {CIRCUITSVIS}\n\n{text.strip().replace('*/', '* /').replace('</', '< /')}\n*/"
