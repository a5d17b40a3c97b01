"""Names of clips."""
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from task1a.challenge import clip_key, clip_name


@given(st.lists(st.sampled_from(["/", ".", "..", "\\", "audio", "a.wav", " ", "é"]), max_size=8).map("".join))
def test_a_name_is_normalised_as_a_path(name):
    assert clip_name(name) == PurePosixPath(name.replace("\\", "/")).as_posix()


def test_a_clip_is_compared_without_its_folder():
    assert {clip_key(name) for name in ("audio/a.wav", "a.wav", ".\\audio\\a.wav", "./audio//a.wav")} == {"a.wav"}
