"""The picture of the modules: what the imports say, and drawn by the floors that the layering test enforces."""

import importlib.util
from xml.etree import ElementTree

import pytest

from tests.test_layers import FLOORS, PACKAGE, ROOMS, imports_of
from tests.test_names import ROOT

SCRIPT = ROOT / "scripts" / "module_map.py"


@pytest.fixture(scope="module")
def module_map():
    spec = importlib.util.spec_from_file_location("module_map", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_current(module_map):
    assert module_map.MAP.read_text() == module_map.draw(), "the imports have changed: run `make map`"


def test_its_floors_are_those_of_the_layering_test(module_map):
    assert tuple(rooms for _, rooms in module_map.FLOORS) == FLOORS[1:]


def test_it_has_a_box_for_every_module_and_an_arrow_for_every_two_rooms(module_map):
    svg = ElementTree.fromstring(module_map.MAP.read_text())
    titles = [title.text or "" for title in svg.iter("{http://www.w3.org/2000/svg}title")]
    boxes = {title.split(" imports")[0] for title in titles if " imports\n" in title}
    files = {path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE and path.name != "__init__.py"}
    assert boxes == {".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in files}
    drawn = {tuple(title.split(" imports from ")) for title in titles if " imports from " in title}
    pairs = {(one, other.split()[0]) for one, other in drawn}
    rooms = {
        (path.relative_to(PACKAGE).parts[0], name.split(".")[1])
        for path in files
        for name in imports_of(path)
        if name.startswith("tl_neuron_attr.") and name.split(".")[1] in [room for room in ROOMS if room[0] != "_"]
    }
    assert pairs == {(one, other) for one, other in rooms if one != other}
