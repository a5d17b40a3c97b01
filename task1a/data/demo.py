"""The embedded demo set: synthesised recordings in the TAU layout, so that everything runs with nothing downloaded.

It has the shape of the challenge's data: ten scenes, several cities, locations that are never in both splits, nine
devices with the challenge's imbalance (mostly ``a``; ``s4`` to ``s6`` only in test), test clips that every device
hears, and an unlabelled evaluation set with two devices more. What is heard in it is made up: figures on it say nothing
about the challenge.

A scene is a bed of noise and a few kinds of sound (:data:`SCENES`, :data:`SOUNDS`); each location has its own mixture,
pitches and room. A device is a frequency response and a compressor (:data:`DEVICES`). Every random number comes from
PCG64 seeded by a name, and all is computed in float64 before it is rounded to 24 bits, so that a clip has the same
bytes wherever and in whatever order it is made.
"""
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from filelock import FileLock
from scipy.signal import lfilter

from task1a.data import tau_layout
from task1a.files import write_text
from task1a.machine import cores

VERSION = 1
"""Of the synthesis; to be raised with every change of what is written, so that sets on disk are built anew."""

DEVELOPMENT, EVALUATION, REFERENCE = "demo-development", "demo-evaluation", "demo-evaluation-reference.csv"
SAMPLE_RATE = 44100

CITIES = ("lisbon", "lyon", "prague", "stockholm", "vienna")
SEEN, UNSEEN, EVALUATION_ONLY = ("a", "b", "c", "s1", "s2", "s3"), ("s4", "s5", "s6"), ("d", "s7")


@dataclass(frozen=True)
class DemoSize:
    """How much of it is made. Locations are counted for each scene."""

    train_locations: int = 10
    """locations of the training split"""
    clips_per_location: int = 2
    """device ``a`` clips of a training location"""
    parallel_every: int = 14
    """which of them the other seen devices hear, too: every so many, for each device"""
    test_locations: int = 2
    """locations of the test split, one clip each, heard by all nine devices"""
    evaluation_locations: int = 2
    """locations of the evaluation set, one clip each, heard by three of eleven devices"""
    clip_seconds: float = 5.0
    """length of every clip"""


@dataclass(frozen=True)
class Sound:
    """One kind of sound: a tone with harmonics, or a burst of noise around a pitch."""

    pitch: tuple[float, float]
    """Hz, the range from which a location draws its own"""
    seconds: tuple[float, float] | None = None
    """shortest and longest; a sound without is there all the time"""
    harmonics: int = 0
    """of a tone; 0 is noise"""
    glide: float = 0.0
    """octaves by which the pitch moves at most"""
    notes: int = 1
    """repetitions in a row"""
    struck: bool = False
    """dies away after its start instead of swelling and falling"""


SOUNDS: Mapping[str, Sound] = {
    "voices": Sound((110, 230), (0.12, 0.3), harmonics=12, glide=0.3),
    "birds": Sound((2500, 6000), (0.05, 0.15), harmonics=1, glide=0.6, notes=3),
    "chimes": Sound((400, 900), (0.6, 1.2), harmonics=4, struck=True, notes=2),
    "beeps": Sound((1000, 2200), (0.1, 0.16), harmonics=3, notes=3),
    "squeals": Sound((1200, 3500), (0.4, 1.2), harmonics=3, glide=0.2),
    "steps": Sound((250, 1200), (0.06, 0.12), struck=True),
    "clacks": Sound((120, 500), (0.08, 0.15), struck=True, notes=2),
    "passes": Sound((200, 1200), (1.5, 3.5)),
    "engine": Sound((28, 60), harmonics=14, glide=0.1),
    "whine": Sound((300, 900), harmonics=4, glide=0.3),
    "ventilation": Sound((95, 125), harmonics=6),
}


@dataclass(frozen=True)
class Scene:
    """What a scene sounds like on the average of its locations."""

    tilt: float
    """slope of the noise bed in dB an octave"""
    sway: float
    """dB by which the bed rises and falls"""
    sounds: Mapping[str, tuple[float, float]]
    """sound -> how often a second (0: all the time) and how loud in dB against the bed"""


SCENES: Mapping[str, Scene] = {
    "airport": Scene(-4.0, 2, {"voices": (2, -4), "chimes": (0.3, -2), "steps": (1, -2), "ventilation": (0, -8)}),
    "bus": Scene(-6.5, 3, {"engine": (0, 2), "voices": (1, -6), "beeps": (0.2, -6)}),
    "metro": Scene(-6.0, 3, {"whine": (0, -8), "clacks": (1.2, 2), "engine": (0, -4), "beeps": (0.2, -6)}),
    "metro_station": Scene(-4.5, 4, {"passes": (0.3, 4), "squeals": (0.3, -8), "voices": (1.5, -4),
                                     "steps": (1.5, -2)}),
    "park": Scene(-3.0, 4, {"birds": (1.0, -4), "steps": (0.6, 0), "voices": (0.4, -6)}),
    "public_square": Scene(-4.0, 3, {"voices": (2, -2), "birds": (0.3, -8), "steps": (1.5, -2), "passes": (0.15, 0)}),
    "shopping_mall": Scene(-3.5, 1, {"voices": (4, -3), "chimes": (0.6, -6), "ventilation": (0, -4), "steps": (1, -4)}),
    "street_pedestrian": Scene(-3.5, 2, {"steps": (3, 2), "voices": (2, -3), "birds": (0.15, -8)}),
    "street_traffic": Scene(-5.0, 5, {"passes": (0.6, 6), "engine": (0, -6), "squeals": (0.08, -10)}),
    "tram": Scene(-5.5, 3, {"squeals": (0.5, -6), "clacks": (0.8, 0), "whine": (0, -4), "chimes": (0.15, -4)}),
}

LEVEL_SPREAD, ROOM_SPREAD = 5.0, 2.5
"""dB by which locations of a scene differ at most in how loud a sound is and in the response of their room. With less
of it the scenes are easy to tell apart, with more there is little to learn from so few locations."""

OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000, 16000)
"""Hz at which a response is given; between them it is linear in dB over log frequency, beyond them constant."""


@dataclass(frozen=True)
class Device:
    """A recording device."""

    response: tuple[float, ...]
    """dB at :data:`OCTAVES`"""
    ratio: float = 1.0
    """of the compressor: input dB over output dB above its threshold"""
    threshold: float = -36.0
    """dB below full scale from where on it compresses"""


DEVICES: Mapping[str, Device] = {
    "a": Device((0, 0, 0, 0, 0, 0, 0, 0, 0)),
    "b": Device((-16, -8, -3, 0, 1, 3, 5, 2, -6)),
    "c": Device((-12, -4, 0, -1, 0, 2, -2, -5, -12)),
    "s1": Device((-9, -3, 2, 4, 0, -3, 2, 5, -4), ratio=2.0),
    "s2": Device((-14, -10, -4, 2, 3, 0, -5, 1, -2), ratio=2.5),
    "s3": Device((-6, 1, 4, 1, -3, 2, 4, -2, -8), ratio=1.8),
    "s4": Device((-18, -12, -7, -2, 4, 7, 3, 6, 0), ratio=3.0),
    "s5": Device((-4, 3, 6, 2, -5, -8, -3, -9, -15), ratio=2.5),
    "s6": Device((-22, -9, 3, 7, 2, -6, 5, -4, -18), ratio=4.0),
    "d": Device((-10, -2, 3, 0, -2, 3, 0, -4, -9)),
    "s7": Device((-13, -8, 0, 5, 5, 1, -4, 3, -5), ratio=3.0),
}


@dataclass(frozen=True)
class Clip:
    """One file of the set."""

    scene: str
    city: str
    location: int
    segment: int
    device: str
    split: str
    """``train``, ``test``, ``unused`` or ``evaluation``"""

    identifier = property(lambda self: f"{self.city}-{self.location}")
    source = property(lambda self: f"{self.scene}-{self.identifier}-{self.segment}")
    filename = property(lambda self: f"audio/{self.source}-{self.device}.wav")


def build(root: Path, size: DemoSize | None = None, workers: int | None = None) -> tuple[Path, Path]:
    """Make the demo set below ``root`` unless it is there, whole and of this version and size.

    Args:
        root: folder of ``demo-development/``, ``demo-evaluation/`` and, with the latter's labels,
            ``demo-evaluation-reference.csv``.
        size: how much is made.
        workers: threads; one a core when not given. They do not change what is written.

    Returns:
        The folders of the development and of the evaluation set.

    A set appears under its name only when all of it is written; what a killed build left is cleared away by the next.
    Builds at the same time wait for each other.
    """
    size = size or DemoSize()
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    development, evaluation = root / DEVELOPMENT, root / EVALUATION
    with FileLock(root / ".demo.lock"):
        for left in root.glob(".demo-building-*"):
            shutil.rmtree(left)
        if all(_is_current(folder, size) for folder in (development, evaluation)) and (root / REFERENCE).is_file():
            return development, evaluation
        with tempfile.TemporaryDirectory(prefix=".demo-building-", dir=root) as part:
            print(f"demo: synthesising {len(plan(size)):,} clips in {root}", file=sys.stderr, flush=True)
            _write(Path(part), size, workers)
            for name in (DEVELOPMENT, EVALUATION, REFERENCE):
                if (root / name).exists():
                    os.replace(root / name, Path(part) / f"{name}.old")
                os.replace(Path(part) / name, root / name)
    return development, evaluation


def plan(size: DemoSize) -> list[Clip]:
    """Every clip of the set, scene by scene; parallel recordings of the same sound have the same ``source``."""
    locations, segments = count(1000), count(40000)
    sources: dict[str, list[Clip]] = {"train": [], "test": [], "evaluation": []}
    for scene in SCENES:
        for split, n_locations, n_clips in (("train", size.train_locations, size.clips_per_location),
                                            ("test", size.test_locations, 1),
                                            ("evaluation", size.evaluation_locations, 1)):
            for location in islice(locations, n_locations):
                city = CITIES[location % len(CITIES)]
                sources[split] += [Clip(scene, city, location, next(segments), "a", split) for _ in range(n_clips)]
    return [clip for split, clips in sources.items() for index, source in enumerate(clips)
            for clip in _heard(source, index, size)]


def synthesise(source: Clip, seconds: float) -> np.ndarray:
    """What is heard at a location, before any device. Shape: (samples,), float64, mean power about -26 dB."""
    scene, location, random = SCENES[source.scene], _generator(source.identifier), _generator(source.source)
    samples = round(seconds * SAMPLE_RATE)
    tilt = scene.tilt + _between(location, -1, 1)
    bed = _filtered(random.random(samples) - 0.5, lambda hz: tilt * np.log2(np.maximum(hz, 40) / 1000))
    turns = np.arange(0, samples + SAMPLE_RATE, SAMPLE_RATE // 2)
    sway = np.interp(np.arange(samples), turns, _between(random, -scene.sway, scene.sway, len(turns)))
    sound = _unit_power(bed) * 10 ** (sway / 20)
    for name, (rate, level) in scene.sounds.items():
        pitch = _between_octaves(location, *SOUNDS[name].pitch)
        level = level + _between(location, -LEVEL_SPREAD, LEVEL_SPREAD)
        rate = rate * 2 ** _between(location, -1, 1)
        sound += 10 ** (level / 20) * _sounds(random, SOUNDS[name], pitch, rate, samples)
    room = _between(location, -ROOM_SPREAD, ROOM_SPREAD, len(OCTAVES))
    loudness = _between(location, -32, -20)
    return _unit_power(_filtered(sound, lambda hz: response(room, hz))) * 10 ** (loudness / 20)


def record(sound: np.ndarray, device: Device) -> np.ndarray:
    """What a device makes of a sound: its frequency response, then its compressor. Shape: (samples,) to (samples,).

    The compressor is a feed-forward one with a mean-square detector of 20 ms (Giannoulis et al., *Digital dynamic
    range compressor design*, J. Audio Eng. Soc. 60(6), 2012), without make-up gain.
    """
    heard = _filtered(sound, lambda hz: response(device.response, hz))
    if device.ratio == 1:
        return heard
    keep = np.exp(-1 / (0.02 * SAMPLE_RATE))
    power = lfilter([1 - keep], [1, -keep], heard**2)
    over = np.maximum(10 * np.log10(power + 1e-12) - device.threshold, 0)
    return heard * 10 ** (over * (1 / device.ratio - 1) / 20)


def response(octaves: Sequence[float], hz: np.ndarray) -> np.ndarray:
    """A frequency response in dB at ``hz``, from its values at :data:`OCTAVES`. Shape: that of ``hz``."""
    return np.interp(np.log2(np.maximum(hz, 1)), np.log2(OCTAVES), octaves)


def _heard(source: Clip, index: int, size: DemoSize) -> list[Clip]:
    """The parallel recordings of a sound, which is the ``index``-th of its split."""
    if source.split == "test":
        return [replace(source, device=device) for device in SEEN + UNSEEN]
    if source.split == "evaluation":
        everyone = SEEN + UNSEEN + EVALUATION_ONLY
        return [replace(source, device=everyone[(3 * index + ear) % len(everyone)]) for ear in range(3)]
    clips = [source, *(replace(source, device=device) for turn, device in enumerate(SEEN[1:])
                       if (index - turn) % size.parallel_every == 0)]
    if index % size.parallel_every == 0:  # as on TAU: unseen devices were at training locations, and no split uses that
        device = UNSEEN[index // size.parallel_every % len(UNSEEN)]
        clips.append(replace(source, device=device, split="unused"))
    return clips


def _write(root: Path, size: DemoSize, workers: int | None) -> None:
    clips = plan(size)
    development = [clip for clip in clips if clip.split != "evaluation"]
    evaluation = [clip for clip in clips if clip.split == "evaluation"]
    evaluation = [evaluation[i] for i in np.argsort(_generator("evaluation order").random(len(evaluation)))]
    numbers = {clip: f"audio/{number}.wav" for number, clip in enumerate(evaluation)}
    for name in (DEVELOPMENT, EVALUATION):
        (root / name / "audio").mkdir(parents=True)
        write_text(root / name / tau_layout.DEMO_MARK, _marker(size))
    _write_development_tables(root / DEVELOPMENT, development)
    truth = pd.DataFrame({"filename": numbers.values(), "scene_label": [clip.scene for clip in numbers],
                          "source_label": [clip.device for clip in numbers]})
    _write_table(root / EVALUATION / tau_layout.SETUP / "fold1_test.csv", truth[["filename"]])
    _write_table(root / REFERENCE, truth)
    files: dict[str, list[tuple[Clip, Path]]] = {}
    for clip in clips:
        path = root / EVALUATION / numbers[clip] if clip in numbers else root / DEVELOPMENT / clip.filename
        files.setdefault(clip.source, []).append((clip, path))
    with ThreadPoolExecutor(workers or cores()) as pool:
        list(pool.map(lambda parallel: _write_parallel(parallel, size.clip_seconds), files.values()))


def _write_development_tables(root: Path, clips: Sequence[Clip]) -> None:
    meta = pd.DataFrame({"filename": [clip.filename for clip in clips], "scene_label": [clip.scene for clip in clips],
                         "identifier": [clip.identifier for clip in clips],
                         "source_label": [clip.device for clip in clips]})
    split = pd.Series([clip.split for clip in clips])
    _write_table(root / tau_layout.META, meta)
    for name, part, columns in (("train", "train", ["filename", "scene_label"]), ("test", "test", ["filename"]),
                                ("evaluate", "test", ["filename", "scene_label"])):
        _write_table(root / tau_layout.SETUP / f"fold1_{name}.csv", meta.loc[split == part, columns])


def _write_table(path: Path, table: pd.DataFrame) -> None:
    write_text(path, table.to_csv(sep="\t", index=False, lineterminator="\n"))


def _write_parallel(parallel: Sequence[tuple[Clip, Path]], seconds: float) -> None:
    sound = synthesise(parallel[0][0], seconds)
    for clip, path in parallel:
        heard = np.clip(record(sound, DEVICES[clip.device]), -0.999, 0.999)
        # the 24 bits lie at the upper end of the 32 that soundfile takes, so that it has nothing left to round
        soundfile.write(path, np.rint(heard * 2**23).astype(np.int32) << 8, SAMPLE_RATE, subtype="PCM_24")


def _marker(size: DemoSize) -> str:
    return ("Synthesised demo data: nothing in it was recorded, and figures on it say nothing about real recordings.\n"
            f"Made by task1a.data.demo, version {VERSION}: {size}\n")


def _is_current(folder: Path, size: DemoSize) -> bool:
    return tau_layout.is_demo(folder) and (folder / tau_layout.DEMO_MARK).read_text(encoding="utf-8") == _marker(size)


def _sounds(random: np.random.Generator, sound: Sound, pitch: float, rate: float, samples: int) -> np.ndarray:
    """All occurrences of one kind of sound in a clip, each of mean power 1. Shape: (samples,)."""
    if sound.seconds is None:
        return _note(random, sound, pitch, samples)
    track = np.zeros(samples)
    for _ in range(int(rate * samples / SAMPLE_RATE + random.random())):
        length = SAMPLE_RATE // 100 * round(100 * _between(random, *sound.seconds))  # a length that an FFT likes
        start = int(random.random() * samples)
        for _ in range(sound.notes):
            note = _note(random, sound, pitch * 2 ** _between(random, -0.3, 0.3), length)
            track[start:start + length] += note[:samples - start]
            start = min(start + round(1.4 * length), samples)
    return track


def _note(random: np.random.Generator, sound: Sound, pitch: float, samples: int) -> np.ndarray:
    progress = np.arange(samples) / samples
    if sound.harmonics:
        bend = sound.glide * _between(random, -1, 1) * np.sin(np.pi * progress)
        phase = 2 * np.pi * np.cumsum(pitch * 2**bend) / SAMPLE_RATE
        wave = _harmonics(phase, sound.harmonics)
    else:
        wave = _filtered(random.random(samples) - 0.5, lambda hz: -6 * np.abs(np.log2(np.maximum(hz, 1) / pitch)))
    if sound.struck:
        wave = wave * np.exp(-6 * progress)
    elif sound.seconds is not None:
        wave = wave * np.sin(np.pi * progress) ** 2
    return _unit_power(wave)


def _harmonics(phase: np.ndarray, n: int) -> np.ndarray:
    """The sum of sin(k phase) / k over k = 1 ... n, by sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x)."""
    below, this, twice_cos = np.zeros_like(phase), np.sin(phase), 2 * np.cos(phase)
    total = this.copy()
    for k in range(2, n + 1):
        below, this = this, twice_cos * this - below
        total += this / k
    return total


def _filtered(wave: np.ndarray, decibels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Filter with a response given in dB as a function of Hz, phases unchanged. Shape: (samples,) to the same."""
    hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(wave) * 10 ** (decibels(hz) / 20), len(wave))


def _unit_power(wave: np.ndarray) -> np.ndarray:
    return wave / np.sqrt(np.mean(wave**2))


def _generator(name: str) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")))


def _between(random: np.random.Generator, low: float, high: float, size: int | None = None) -> float | np.ndarray:
    return low + (high - low) * random.random(size)


def _between_octaves(random: np.random.Generator, low: float, high: float) -> float:
    return low * (high / low) ** random.random()
