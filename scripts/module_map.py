"""Draw the map of the package's modules from its imports: ``docs/images/module_map.svg``.

One box per module, one band per room, floors from the bottom up. An arrow goes from a room to each room that it imports
from, behind the floors between; a module's own imports show when it is pointed at.
"""

import argparse
import ast
from functools import cache
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tl_neuron_attr"
MAP = ROOT / "docs" / "images" / "module_map.svg"

FLOORS = (
    ("tensors", ("numerics", "srnn")),
    ("results", ("results",)),
    ("models", ("model",)),
    ("papers 1, 2, 3", ("knowledge", "incontext", "cna")),
    ("studies, pages, commands", ("demo", "evaluate", "sweep", "vis", "cli")),
)
"""The floors of tests/test_layers.py, with what each knows."""

_COLOURS = ("#e8eef7", "#e5f3ec", "#fdf3dc", "#f6e8ef", "#eeeaf6")
_WIDTH, _LETTER, _BOX, _GAP, _MARGIN, _BETWEEN = 1120, 6.4, 22, 6, 14, 46
"""Pixels: the picture's width, a letter at 11 px, a box's height, the space around things, the room for arrows."""


@cache
def modules() -> dict[str, list[str]]:
    """Return the modules of each room, by name."""
    rooms: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room, *inner = path.relative_to(PACKAGE).with_suffix("").parts
        if inner and inner[-1] != "__init__":
            rooms.setdefault(room, []).append(".".join(inner))
    return rooms


@cache
def imports(room: str, module: str) -> list[str]:
    """Return the modules of the package that a module imports, anywhere in it."""
    tree = ast.parse((PACKAGE / room / (module.replace(".", "/") + ".py")).read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            inside = (node.module or "").split(".")[1:]
            names = [".".join((*inside, alias.name)) for alias in node.names]
            is_module = [PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists() for name in names]
            is_room = [(PACKAGE / name).is_dir() for name in names]
            whole = [n for n, m, r in zip(names, is_module, is_room, strict=True) if m or r]
            found |= {*(whole or [".".join(inside)])}
    return sorted(room for room in found if room and not room.startswith("_"))


class _Room:
    """A band with its boxes laid out in lines."""

    def __init__(self, name: str, x: float, width: float) -> None:
        self.name, self.x, self.width, self.y = name, x, width, 0.0
        self.boxes: list[tuple[str, float, float, float]] = []
        left, line = _GAP, 0
        for module in modules()[name]:
            size = _LETTER * len(module) + 12
            if left + size > width - _GAP and left > _GAP:
                left, line = _GAP, line + 1
            self.boxes.append((module, left, 22 + line * (_BOX + _GAP), size))
            left += size + _GAP
        self.height = 22 + (line + 1) * (_BOX + _GAP)

    def draw(self, colour: str) -> list[str]:
        """Return the markup of the band and its boxes."""
        drawn = [
            f'<rect x="{self.x:.0f}" y="{self.y:.0f}" width="{self.width:.0f}" height="{self.height:.0f}" rx="7" '
            f'fill="{colour}" stroke="#8a94a6"/>',
            f'<text x="{self.x + 8:.0f}" y="{self.y + 15:.0f}" font-weight="bold">{self.name}/</text>',
        ]
        for module, x, y, size in self.boxes:
            title = "\n".join([f"{self.name}.{module} imports", *(imports(self.name, module) or ["nothing of ours"])])
            x, y = self.x + x, self.y + y
            drawn.append(
                f'<g><title>{escape(title)}</title><rect x="{x:.1f}" y="{y:.0f}" width="{size:.1f}" height="{_BOX}" '
                f'rx="4" fill="white" stroke="#c3cad6"/><text x="{x + size / 2:.1f}" y="{y + 15:.0f}" '
                f'text-anchor="middle">{module}</text></g>'
            )
        return drawn


def layout() -> list[list[_Room]]:
    """Return the rooms of each floor, the highest first; a room's width is its share of the floor's letters."""
    floors: list[list[_Room]] = []
    y = float(_MARGIN)
    for _, names in reversed(FLOORS):
        names = [name for name in names if name in modules()]
        letters = [sum(len(m) + 3 for m in modules()[name]) ** 0.8 for name in names]
        free = _WIDTH - 2 * _MARGIN - 3 * _GAP * (len(names) - 1)
        x, rooms = float(_MARGIN), []
        for name, share in zip(names, letters, strict=True):
            room = _Room(name, x, free * share / sum(letters))
            room.y, x = y, x + room.width + 3 * _GAP
            rooms.append(room)
        y += max(room.height for room in rooms) + _BETWEEN
        floors.append(rooms)
    return floors


def arrows(floors: list[list[_Room]]) -> list[str]:
    """Return an arrow from each room to each room it imports from, the thicker the more imports."""
    rooms = {room.name: room for floor in floors for room in floor}
    drawn: list[str] = []
    for name, room in rooms.items():
        used = [found.split(".")[0] for module in modules()[name] for found in imports(name, module)]
        below = [other for other in rooms if other != name and other in used]
        for i, other in enumerate(below):
            to = rooms[other]
            title = f"{name} imports from {other} {used.count(other)} times"
            start = room.x + room.width * (i + 1) / (len(below) + 1)
            end = to.x + to.width * (0.15 + 0.7 * list(rooms).index(name) / len(rooms))
            if to.y == room.y:  # beside it: under the floor and up again
                y0, y1 = room.y + room.height, to.y + to.height
                path = f"M{start:.0f},{y0:.0f}C{start:.0f},{y0 + 34:.0f} {end:.0f},{y1 + 34:.0f} {end:.0f},{y1 + 3:.0f}"
            else:
                y0, y1 = room.y + room.height, to.y
                path = f"M{start:.0f},{y0:.0f}C{start:.0f},{y0 + 40:.0f} {end:.0f},{y1 - 40:.0f} {end:.0f},{y1 - 3:.0f}"
            width = 0.8 + min(used.count(other), 40) / 16
            drawn.append(
                f'<path d="{path}" fill="none" stroke="#44546f" stroke-opacity="0.55" stroke-width="{width:.1f}" '
                f'marker-end="url(#tip)"><title>{title}</title></path>'
            )
    return drawn


def draw() -> str:
    """Return the whole picture."""
    floors = layout()
    height = max(room.y + room.height for room in floors[-1]) + _MARGIN
    bands = [
        line for floor, colour in zip(floors, reversed(_COLOURS), strict=True) for r in floor for line in r.draw(colour)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" '
            'font-family="system-ui, sans-serif" font-size="11" fill="#1d2733">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" '
            'markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0L8,4L0,8z" fill="#44546f"/></marker></defs>',
            f'<rect width="{_WIDTH}" height="{height:.0f}" fill="white"/>',
            *arrows(floors),
            *bands,
            "</svg>\n",
        ]
    )


def main() -> None:
    """Write the picture, or with ``--check`` exit with 1 if it is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="only say whether the picture is current")
    if not parser.parse_args().check:
        MAP.write_text(draw())
    elif MAP.read_text() != draw():
        parser.exit(1, f"{MAP.relative_to(ROOT)} is not what the imports say: run make map\n")


if __name__ == "__main__":
    main()
