"""Notes about recordings that can be read, but may not hold the sound that they seem to hold.

A note never stops a run: it counts the recordings and names a few. What the header tells is noted
by the check of a data set (:mod:`task1a.data.check`), what the samples tell by the features
(:mod:`task1a.features.build`), and both by ``python -m task1a.predict``.
"""
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

NOTES = {
    # from the header, see task1a.data.recording
    "open_length": "recordings that do not declare their length, as programs write to a pipe, and "
                   "are read to the end of their files; if they were cut off, nothing tells",
    "wrapped": "recordings beyond the 4 GiB that their format can declare, which are read to the "
               "end; save such long ones as RF64 or FLAC",
    "more_behind": "recordings with much more data than they declare as audio, which is not read; "
                   "the recorder may have been stopped before it wrote the length",
    "unpadded": "recordings with a chunk of odd size without the byte that makes it even, which "
                "other programs may not read",
    "tag": "WAV files that begin with an ID3 tag, which is skipped and which other programs may "
           "not read",
    # from the header and the settings of the features
    "low_rate": "recordings with a lower sample rate than features.sample_rate, without sound in "
                "the upper mel bands",
    "long": "recordings much longer than features.clip_seconds, of which only the start is used; "
            "cut them into clips to use all",
    # from the samples
    "too_loud": "recordings with floating-point samples far above full scale, such as integers "
                "that were not divided by 32,768; divide them, or the model hears them up to 90 dB"
                " too loud",
    "silent": "recordings that are silent or constant as far as they are used",
    "cancels": "recordings whose channels cancel each other, so that their mean is 30 dB below "
               "them; keep one channel",
}
"""What is noted, in the order of the notes."""

NAMED = 3
"""Number of recordings that a note names as examples."""

_FULL_SCALES = 16.0  # 24 dB above full scale; floating-point recordings exceed it by a few dB
_STEP = 2.0 ** -15  # the least step of 16 bits
_CANCELLATION = 1e-3  # of the power of the channels, 30 dB
_MUCH_LONGER = 1.5  # of the length of a clip; predict splits longer recordings, too


def header_notes(notes: Iterable[str], rate: int, seconds: float, sample_rate: int,
                 clip_seconds: float) -> list[str]:
    """Return notes from the header of a recording, for features of ``sample_rate`` in Hz and
    ``clip_seconds``."""
    found = list(notes)
    if rate < sample_rate:
        found.append("low_rate")
    if seconds > _MUCH_LONGER * clip_seconds:
        found.append("long")
    return found


class SoundCheck:
    """Watch the samples of a recording while they are decoded."""

    def __init__(self) -> None:
        self.header: list[str] = []
        """notes from the header"""
        self.low, self.high = np.inf, -np.inf
        self.mix_power, self.channel_power = 0.0, 0.0

    def add(self, block: np.ndarray, mono: np.ndarray) -> None:
        """Take the next samples, finite float32 [frames, channels], and their mean over the
        channels, [frames]."""
        # low and high tell a constant recording, and its level; the powers, of which only the ratio is
        # used, tell how much of the channels is left in their mean
        self.low, self.high = min(self.low, float(mono.min())), max(self.high, float(mono.max()))
        if block.shape[1] > 1:
            self.mix_power += float(np.vdot(mono, mono))
            self.channel_power += float(np.vdot(block, block)) / block.shape[1]

    def notes(self) -> list[str]:
        """Return notes about the samples so far."""
        found = []
        if max(-self.low, self.high) > _FULL_SCALES:
            found.append("too_loud")
        if self.mix_power < _CANCELLATION * self.channel_power:
            found.append("cancels")
        elif self.high - self.low <= _STEP:
            found.append("silent")
        return found


def describe(noted: Mapping[str, Sequence[str]]) -> list[str]:
    """Format notes.

    Args:
        noted: notes of each recording, by its name.

    Returns:
        A line for each note, with the number of recordings and the first names.
    """
    lines = []
    for key, text in NOTES.items():
        names = [name for name, notes in noted.items() if key in notes]
        if names:
            more = ", ..." if len(names) > NAMED else ""
            lines.append(f"{text}: {len(names):,} ({', '.join(names[:NAMED])}{more})")
    return lines
