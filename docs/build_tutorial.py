"""Write docs/tutorial.ipynb from docs/tutorial.py (`make tutorial`): a Jupyter kernel runs its cells in an empty folder."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("tutorial.py")
NOTEBOOK = SOURCE.with_suffix(".ipynb")


def cells(text: str) -> list[tuple[str, str]]:
    """Kind (``markdown`` or ``code``) and content of each cell of a script whose cells begin with ``# %%``."""
    found = []
    for cell in re.split(r"^# %%", text, flags=re.M)[1:]:
        head, _, content = cell.partition("\n")
        kind = "markdown" if "markdown" in head else "code"
        found.append((kind, re.sub(r"^# ?", "", content, flags=re.M).strip() if kind == "markdown" else content.strip()))
    return found


def _shown(output: Any) -> bool:
    """Whether an output is kept: neither progress and other text on stderr, nor a line that Paddle prints for itself."""
    if output.output_type == "stream":
        output.text = output.text.replace("ReduceMeanCheckIfOneDNNSupport\n", "")
        return output.name == "stdout" and bool(output.text)
    return True


def main() -> None:
    """Run and write the notebook."""
    import nbformat
    from nbclient import NotebookClient

    make = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
    content = [make[kind](text, id=f"cell-{number}") for number, (kind, text) in enumerate(cells(SOURCE.read_text()))]
    notebook = nbformat.v4.new_notebook(cells=content)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=None, kernel_name="python3", record_timing=False, resources=resources).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _shown(output)]
    nbformat.write(notebook, NOTEBOOK)
    print(f"notebook: {NOTEBOOK.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
