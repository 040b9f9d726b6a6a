"""The notebook runs from its first cell to its last, and is kept without outputs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import dima

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def outputs(notebook: Any, kind: str) -> str:
    """All outputs of a notebook of one MIME type."""
    found = [output.get("data", {}).get(kind, "") for cell in notebook.cells for output in cell.get("outputs", [])]
    return "\n".join(found)


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    paths = os.pathsep.join((str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    variables = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "IPYTHONDIR": str(folder / "ipython")}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)  # the kernel inherits them
    try:
        client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        client.execute()
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            os.environ |= {} if value is None else {name: value}
    return notebook, folder


def test_the_notebook_runs(executed: Any) -> None:
    notebook, folder = executed
    walk, meet = (dima.open_run(folder / "runs" / "notebook" / name) for name in ("walk", "meet"))
    assert walk.evaluations[-1][1] > -12  # a random policy returns about -15
    assert meet.task == "__main__:Meet" and meet.stopped.startswith("Diary: the distance has halved")
    assert outputs(notebook, "image/png").count("iVBOR") == 2


def test_progress_is_one_output_that_is_updated(executed: Any) -> None:
    notebook, _ = executed
    shown = outputs(notebook, "text/html")
    assert shown.count("a random policy returns") == 2  # of two runs
    assert "step 2,040 of 2,000" in shown and "evaluated return" in shown
    assert "the task __main__:Meet is known to this process only" in shown


def test_results_describe_themselves(executed: Any) -> None:
    notebook, _ = executed
    shown, plain = outputs(notebook, "text/html"), outputs(notebook, "text/plain")
    assert "stopped by Diary" in shown and "<polyline" in shown and "team return" in shown
    assert "<Agent of dima on toy/walk: " in plain and "<Evaluation: mean" in plain


def test_a_run_of_a_notebook_is_given_its_class_in_another_process(executed: Any) -> None:
    _, folder = executed
    with pytest.raises(dima.UserError, match="__main__:Meet, which was defined in a notebook"):
        dima.load(folder / "runs" / "notebook" / "meet")


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
