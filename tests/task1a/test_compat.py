import subprocess
import sys

import pytest
import torch

from task1a.features import compat
from task1a.features.compat import torchaudio


def test_transforms_and_functionals_work():
    waveform = torch.sin(2 * torch.pi * 1000 * torch.arange(16000) / 16000)
    spectrum = torchaudio.transforms.Spectrogram(n_fft=1600, center=False)(waveform)
    assert int(spectrum.mean(-1).argmax()) == 100  # 10 Hz a bin
    assert torchaudio.functional.melscale_fbanks(201, 0.0, 8000.0, 40, 16000).shape == (201, 40)


@pytest.fixture
def fake_torchaudio(tmp_path, monkeypatch):
    """A stand-in for the whole package, in a process of its own, whose native part ends as the test says."""
    package = tmp_path / "torchaudio"
    package.mkdir()
    (package / "__init__.py").write_text("from . import _extension\n")

    def outcome(native_part: str) -> subprocess.CompletedProcess:
        (package / "_extension.py").write_text(native_part)
        code = ("from task1a.features.compat import torchaudio; "
                "print(torchaudio._extension._IS_TORCHAUDIO_EXT_AVAILABLE)")
        code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {code}"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return outcome


def test_library_that_loads_is_left_alone(fake_torchaudio):
    assert fake_torchaudio("_IS_TORCHAUDIO_EXT_AVAILABLE = True").stdout.strip() == "True"


def test_library_that_does_not_load_is_stood_in_for(fake_torchaudio):
    assert fake_torchaudio("raise OSError('libc10_cuda.so: cannot open')").stdout.strip() == "False"


def test_other_failures_are_not_hidden(fake_torchaudio):
    outcome = fake_torchaudio("raise ImportError('broken installation')")
    assert outcome.returncode != 0 and "broken installation" in outcome.stderr


def test_native_functions_say_why_they_fail():
    align = compat.without_extension().fail_if_no_align(torchaudio.functional.forced_align)
    with pytest.raises(RuntimeError, match="native library"):
        align()
