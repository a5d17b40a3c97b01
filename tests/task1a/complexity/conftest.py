"""Files are read in the process of the tests, but for the tests of the process that they are read in otherwise."""
import pytest

from task1a.complexity import model_files


@pytest.fixture(autouse=True)
def in_this_process(request, monkeypatch):
    if "apart" not in request.module.__name__:
        monkeypatch.setattr(model_files, "_read_apart", model_files.read_tensors)
