from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "experiments" / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter's machinery; the notebook's own warnings stay inside its kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path, elsewhere):
    NotebookClient(
        nbformat.read(path, as_version=4), timeout=300, resources={"metadata": {"path": elsewhere}}
    ).execute()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_is_kept_without_outputs(path):
    cells = nbformat.read(path, as_version=4).cells
    assert cells
    assert all(not cell.outputs and cell.execution_count is None for cell in cells if cell.cell_type == "code")
