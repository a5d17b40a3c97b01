"""No test sees what a user keeps in the checkout: its ``cache/``, ``runs/`` and ``data/``."""
import os
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def test_every_test_works_in_its_own_folder(tmp_path):
    assert Path.cwd() == tmp_path and CHECKOUT not in Path.cwd().parents


@pytest.mark.parametrize("use", [
    lambda: open(CHECKOUT / "cache" / "demo" / "meta.csv"), lambda: os.listdir(CHECKOUT / "runs"),
    lambda: (CHECKOUT / "data" / "x.wav").read_bytes(), lambda: (CHECKOUT / "cache").mkdir(),
    lambda: os.scandir(CHECKOUT / "cache"), lambda: os.remove(str(CHECKOUT / "runs" / "x")),
])
def test_the_users_folders_are_out_of_reach(use):
    with pytest.raises(AssertionError, match="a test uses .*; tests work in a folder of their own"):
        use()
