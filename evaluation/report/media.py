"""Spectrogram and player of a recording for the report."""
import base64
import io
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np

from evaluation.report import figures
from task1a.pipeline.run import Run

_PLAYER_RATE = 16_000


class Media(NamedTuple):
    """What a page shows of a recording: both or a note."""

    spectrogram: str = ""
    """drawing as an SVG element"""
    audio: str = ""
    """data URL of the recording"""
    note: str = ""
    """why the recording is not shown"""


def read_media(run: Run, filename: str) -> Media:
    """Read the seconds of a test clip that the network was given, as a drawing and as compressed
    audio.

    Nothing that is wrong with a recording ends the report of a finished run.
    """
    import soundfile
    import soxr

    names = PurePosixPath(filename), PureWindowsPath(filename)
    if names[0].is_absolute() or names[1].anchor or ".." in Path(filename).parts:
        return Media(note="The recording is left out: its name leaves the folder of the data set.")
    path = run.data_root / filename
    try:
        if not path.is_file():  # a named pipe would be waited for
            return Media(note="The recording is left out: it is not there.")
        with soundfile.SoundFile(path) as recording:
            rate = recording.samplerate
            frames = round(run.config.features.clip_seconds * rate)
            samples = recording.read(frames, dtype="float32", always_2d=True)
        if not len(samples) or not np.isfinite(samples).all():
            return Media(note="The recording is left out: it is empty, or not all of its samples are "
                         "numbers.")
        # samples far above full scale end the process in the MP3 encoder
        mono = np.clip(samples, -1, 1).mean(axis=1)
        drawing = figures.spectrogram(mono, rate, path.name)
        container = "MP3" if "MP3" in soundfile.available_formats() else "OGG"
        content = io.BytesIO()
        soundfile.write(content, soxr.resample(mono, rate, _PLAYER_RATE), _PLAYER_RATE, format=container)
    except (OSError, ValueError, RuntimeError) as error:  # the errors of soundfile are RuntimeErrors
        return Media(note=f"The recording is left out: {' '.join(str(error).split())[:200]}")
    mime = "audio/mpeg" if container == "MP3" else "audio/ogg"
    audio = base64.b64encode(content.getvalue()).decode()
    return Media(drawing, f"data:{mime};base64,{audio}")
