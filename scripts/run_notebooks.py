"""Execute notebooks and store what they show: ``python scripts/run_notebooks.py [NOTEBOOK ...]``, all by default."""

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
TIMEOUT = 600
"""Seconds a cell may take."""


def execute(path: Path, *, before: str = "") -> nbformat.NotebookNode:
    """Return the notebook with fresh outputs: what cells show, without progress bars and warnings.

    Args:
        path: The notebook's file.
        before: Code that runs first and is not stored.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(before))
    NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3", record_timing=False).execute()
    notebook.cells.pop(0)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Execute notebooks in place; one that fails stays as it was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", type=Path, nargs="*", default=sorted(NOTEBOOKS.glob("*.ipynb")))
    for path in (bar := tqdm(parser.parse_args().notebooks)):
        bar.set_description(path.name)
        start = time.perf_counter()
        nbformat.write(execute(path), path)
        tqdm.write(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
