"""Make a notebook of a tutorial: python examples/tutorials/to_notebook.py examples/tutorials/text_task.py."""

import json
import re
import sys
from pathlib import Path
from typing import Any

CELL = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


def notebook(text: str) -> dict[str, Any]:
    """Return a Python file in jupytext's percent format as a notebook, in the format 4.5."""
    kinds_and_texts = CELL.split(text)[1:]  # what is above the first cell is left out
    cells: list[dict[str, Any]] = []
    for number, (kind, body) in enumerate(zip(kinds_and_texts[::2], kinds_and_texts[1::2], strict=True)):
        if kind:
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        cell = {"id": f"cell-{number}", "metadata": {}, "source": body.strip().splitlines(keepends=True)}
        code = {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.append({**cell, "cell_type": "markdown"} if kind else {**cell, **code})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def main(files: list[str]) -> None:
    """Write NAME.ipynb beside each NAME.py."""
    for file in map(Path, files):
        made = notebook(file.read_text(encoding="utf-8"))
        file.with_suffix(".ipynb").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(file.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
