"""The embedded demo set: synthesised recordings in the TAU layout, so that everything runs without
a download.

It is built like the challenge's data: ten scenes, several cities, locations in one split only, nine
devices with the challenge's imbalance (mostly ``a``; ``s4`` to ``s6`` only in test), test clips
that all devices record, and an unlabelled evaluation set with two further devices. The sounds are
made up, so figures on them say nothing about the challenge.

A scene is a noise bed with a few sounds (:data:`SCENES`, :data:`SOUNDS`); each location has its own
mixture, pitches and room. A device is a frequency response and a compressor (:data:`DEVICES`).
Random numbers come from PCG64, seeded by names, and samples are computed in float64 before they are
rounded to 16 bits, so the bytes of a clip do not depend on when and where it is made.
"""
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile

from task1a.data import tau_layout
from task1a.files import exclusive, write_text
from task1a.machine import cores

VERSION = 2
"""Version of the synthesis. Every change of what is written must raise it, so that existing sets
are built anew."""

DEVELOPMENT, EVALUATION, REFERENCE = "demo-development", "demo-evaluation", "demo-evaluation-reference.csv"
SAMPLE_RATE = 16000

CITIES = ("lisbon", "lyon", "prague", "stockholm", "vienna")
SEEN, UNSEEN, EVALUATION_ONLY = ("a", "b", "c", "s1", "s2", "s3"), ("s4", "s5", "s6"), ("d", "s7")


@dataclass(frozen=True)
class DemoSize:
    """Size of the demo set. Numbers of locations are per scene."""

    train_locations: int = 12
    """number of locations of the training split"""
    clips_per_location: int = 3
    """number of device ``a`` clips of a training location"""
    parallel_every: int = 14
    """period of the training clips that another seen device records too"""
    test_locations: int = 6
    """number of locations of the test split: one clip each, recorded by all nine devices"""
    evaluation_locations: int = 2
    """number of locations of the evaluation set: one clip each, recorded by three of eleven devices"""
    clip_seconds: float = 3.0
    """length of a clip in seconds"""


@dataclass(frozen=True)
class Sound:
    """A tone with harmonics, or a burst of noise around a pitch."""

    pitch: tuple[float, float]
    """lowest and highest pitch of a location in Hz"""
    seconds: tuple[float, float] | None = None
    """shortest and longest duration; None for a continuous sound"""
    harmonics: int = 0
    """number of harmonics of a tone; 0 for noise"""
    glide: float = 0.0
    """largest change of the pitch in octaves"""
    notes: int = 1
    """number of repetitions in a row"""
    struck: bool = False
    """whether it decays from its start instead of swelling and fading"""


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
    """Sound of a scene, averaged over its locations."""

    tilt: float
    """slope of the noise bed in dB per octave"""
    sway: float
    """variation of the bed's level in dB"""
    sounds: Mapping[str, tuple[float, float]]
    """sound -> occurrences per second (0 if it is continuous) and level in dB relative to the bed"""


SCENES: Mapping[str, Scene] = {
    "airport": Scene(-4.0, 2, {"voices": (1.5, 2), "chimes": (0.8, 6), "ventilation": (0, -2)}),
    "bus": Scene(-6.5, 3, {"engine": (0, 6), "voices": (1.5, 2)}),
    "metro": Scene(-6.0, 3, {"whine": (0, 0), "clacks": (2.5, 9)}),
    "metro_station": Scene(-4.5, 4, {"passes": (0.8, 8), "beeps": (1.0, 4)}),
    "park": Scene(-3.0, 4, {"birds": (2.0, 6)}),
    "public_square": Scene(-4.0, 3, {"voices": (2.5, 5), "birds": (1.0, 2)}),
    "shopping_mall": Scene(-3.5, 1, {"voices": (4, 3), "ventilation": (0, 0), "beeps": (0.8, 2)}),
    "street_pedestrian": Scene(-3.5, 2, {"steps": (3, 9), "voices": (1.0, 1)}),
    "street_traffic": Scene(-5.0, 5, {"passes": (1.2, 10), "engine": (0, 0)}),
    "tram": Scene(-5.5, 3, {"squeals": (1.2, 4), "clacks": (1.0, 6)}),
}

LEVEL_SPREAD, ROOM_SPREAD = 3.0, 2.5
"""Largest deviations in dB of a location from its scene, in the level of a sound and in the
response of the room. Less would make the scenes easy to classify; more would leave little to
learn."""

OCTAVES = (63, 125, 250, 500, 1000, 2000, 4000, 8000)
"""Frequencies in Hz at which a response is given; see :func:`response`."""


@dataclass(frozen=True)
class Device:
    """A recording device."""

    response: tuple[float, ...]
    """frequency response in dB at :data:`OCTAVES`"""
    ratio: float = 1.0
    """ratio of the compressor: input dB over output dB above the threshold"""
    threshold: float = -36.0
    """threshold of the compressor in dB relative to full scale"""


DEVICES: Mapping[str, Device] = {
    "a": Device((0, 0, 0, 0, 0, 0, 0, 0)),
    "b": Device((-16, -8, -3, 0, 1, 3, 5, 2)),
    "c": Device((-12, -4, 0, -1, 0, 2, -2, -5)),
    "s1": Device((-9, -3, 2, 4, 0, -3, 2, 5), ratio=2.0),
    "s2": Device((-14, -10, -4, 2, 3, 0, -5, 1), ratio=2.5),
    "s3": Device((-6, 1, 4, 1, -3, 2, 4, -2), ratio=1.8),
    "s4": Device((-26, -18, -11, -4, 6, 10, 3, 8), ratio=3.0),
    "s5": Device((4, 8, 9, 3, -6, -11, -6, -14), ratio=2.5),
    "s6": Device((-30, -12, 6, 10, 2, -10, 6, -8), ratio=4.0),
    "d": Device((-10, -2, 3, 0, -2, 3, 0, -4)),
    "s7": Device((-13, -8, 0, 5, 5, 1, -4, 3), ratio=3.0),
}


def build(root: Path, size: DemoSize | None = None, workers: int | None = None) -> tuple[Path, Path]:
    """Make the demo set below ``root``, unless it exists in this version and size.

    A set gets its name only when it is complete; the next build removes the remains of a killed one.
    Builds at the same time wait for each other.

    Args:
        root: folder of ``demo-development/``, ``demo-evaluation/`` and
            ``demo-evaluation-reference.csv``, which has the labels of the latter.
        size: size of the set.
        workers: number of threads; default: one per core. It does not change the files.

    Returns:
        The folders of the development set and of the evaluation set.
    """
    size = size or DemoSize()
    root = Path(root)
    development, evaluation = root / DEVELOPMENT, root / EVALUATION
    with exclusive(root / ".demo.lock", f"demo: waiting for another process that builds the set in {root}"):
        for remains in root.glob(".demo-building-*"):
            shutil.rmtree(remains)
        if is_current(root, size):
            return development, evaluation
        with tempfile.TemporaryDirectory(prefix=".demo-building-", dir=root) as part:
            print(f"demo: synthesising {len(plan(size)):,} clips in {root}", file=sys.stderr, flush=True)
            _write(Path(part), size, workers)
            for name in (DEVELOPMENT, EVALUATION):
                write_text(Path(part) / name / tau_layout.DEMO_MARK, _mark(size))
            for name in (DEVELOPMENT, EVALUATION, REFERENCE):
                if (root / name).exists():
                    os.replace(root / name, Path(part) / f"{name}.old")
                os.replace(Path(part) / name, root / name)
    return development, evaluation


def is_current(root: Path, size: DemoSize) -> bool:
    """Whether the set below ``root`` is complete, and of this version and size."""
    marks = [root / name / tau_layout.DEMO_MARK for name in (DEVELOPMENT, EVALUATION)]
    current = all(path.is_file() and path.read_text(encoding="utf-8") == _mark(size) for path in marks)
    return current and (root / REFERENCE).is_file()


def _mark(size: DemoSize) -> str:
    """Return the text of the file that marks a set as synthesised."""
    return ("Synthesised demo data: nothing in it was recorded, and figures on it say nothing about real "
            f"recordings.\nMade by task1a.data.demo, version {VERSION}: {size}\n")


def plan(size: DemoSize) -> pd.DataFrame:
    """List every clip of the set.

    Returns:
        Columns ``scene_label``, ``identifier`` (the location), ``sound`` (a name that parallel
        recordings share), ``source_label`` (the device), ``split`` (``train``, ``test``, ``unused``
        or ``evaluation``) and ``filename``.
    """
    location, segment = 1000, 40000
    sounds: dict[str, list[tuple[str, str, str]]] = {"train": [], "test": [], "evaluation": []}
    for scene in SCENES:
        for split, n_locations, n_clips in (("train", size.train_locations, size.clips_per_location),
                                            ("test", size.test_locations, 1),
                                            ("evaluation", size.evaluation_locations, 1)):
            for _ in range(n_locations):
                identifier = f"{CITIES[location % len(CITIES)]}-{location}"
                location += 1
                for _ in range(n_clips):
                    sounds[split].append((scene, identifier, f"{scene}-{identifier}-{segment}"))
                    segment += 1

    rows = []
    for index, sound in enumerate(sounds["train"]):
        rows.append((*sound, "a", "train"))
        for turn, device in enumerate(SEEN[1:]):
            if (index - turn) % size.parallel_every == 0:
                rows.append((*sound, device, "train"))
        # on TAU, too, unseen devices recorded clips in locations of the train split
        if index % size.parallel_every == 0:
            rows.append((*sound, UNSEEN[index // size.parallel_every % len(UNSEEN)], "unused"))
    for sound in sounds["test"]:
        for device in SEEN + UNSEEN:
            rows.append((*sound, device, "test"))
    devices = SEEN + UNSEEN + EVALUATION_ONLY
    for index, sound in enumerate(sounds["evaluation"]):
        for turn in range(3):
            rows.append((*sound, devices[(3 * index + turn) % len(devices)], "evaluation"))
    clips = pd.DataFrame(rows, columns=["scene_label", "identifier", "sound", "source_label", "split"])
    return clips.assign(filename="audio/" + clips.sound + "-" + clips.source_label + ".wav")


def _write(root: Path, size: DemoSize, workers: int | None) -> None:
    """Write the tables and the recordings of both sets."""
    clips = plan(size)
    development, evaluation = clips[clips.split != "evaluation"], clips[clips.split == "evaluation"]
    # numbered at random, so that the number of an evaluation clip says nothing about its scene
    order = np.argsort(_generator("evaluation order").random(len(evaluation)))
    evaluation = evaluation.iloc[order].assign(filename=[f"audio/{number}.wav" for number in range(len(order))])

    train, test = clips[clips.split == "train"], clips[clips.split == "test"]
    setup = root / DEVELOPMENT / tau_layout.SETUP
    for path, table, columns in (
            (root / DEVELOPMENT / tau_layout.META, development,
             ["filename", "scene_label", "identifier", "source_label"]),
            (setup / "fold1_train.csv", train, ["filename", "scene_label"]),
            (setup / "fold1_test.csv", test, ["filename"]),
            (setup / "fold1_evaluate.csv", test, ["filename", "scene_label"]),
            (root / EVALUATION / tau_layout.SETUP / "fold1_test.csv", evaluation, ["filename"]),
            (root / REFERENCE, evaluation, ["filename", "scene_label", "source_label"])):
        write_text(path, table[columns].to_csv(sep="\t", index=False, lineterminator="\n"))

    def write_parallel(folder: Path, recordings: pd.DataFrame) -> None:
        first = recordings.iloc[0]
        sound = synthesise(first.scene_label, first.identifier, first.sound, size.clip_seconds)
        for clip in recordings.itertuples():
            samples = np.clip(record(sound, DEVICES[clip.source_label]), -0.999, 0.999)
            soundfile.write(folder / clip.filename, np.rint(samples * 2**15).astype(np.int16), SAMPLE_RATE, "PCM_16")

    with ThreadPoolExecutor(workers or cores()) as pool:
        written = []
        for name, table in ((DEVELOPMENT, development), (EVALUATION, evaluation)):
            (root / name / "audio").mkdir(parents=True)
            for _, recordings in table.groupby("sound", sort=False):
                written.append(pool.submit(write_parallel, root / name, recordings))
        for future in written:
            future.result()


def synthesise(scene_label: str, identifier: str, sound_name: str, seconds: float) -> np.ndarray:
    """Return the sound at a location, before any device.

    Every location draws from its own generator, every sound from another one, always in the same
    order.

    Shape: ``[samples]``, float64, mean power from -32 to -20 dB.
    """
    scene, location, random = SCENES[scene_label], _generator(identifier), _generator(sound_name)
    samples = round(seconds * SAMPLE_RATE)
    tilt = scene.tilt + location.uniform(-1, 1)
    bed = _filtered(random.random(samples) - 0.5, lambda hz: tilt * np.log2(np.maximum(hz, 40) / 1000))
    # the level sways, with a turn every half second
    turns = np.arange(0, samples + SAMPLE_RATE, SAMPLE_RATE // 2)
    sway = np.interp(np.arange(samples), turns, random.uniform(-scene.sway, scene.sway, len(turns)))
    sound = _unit_power(bed) * 10 ** (sway / 20)
    for name, (rate, level) in scene.sounds.items():
        low, high = SOUNDS[name].pitch
        pitch = low * (high / low) ** location.random()
        level = level + location.uniform(-LEVEL_SPREAD, LEVEL_SPREAD)
        rate = rate * 2 ** location.uniform(-0.5, 0.5)
        sound += 10 ** (level / 20) * _track(random, SOUNDS[name], pitch, rate, samples)
    room = location.uniform(-ROOM_SPREAD, ROOM_SPREAD, len(OCTAVES))
    loudness = location.uniform(-32, -20)
    return _unit_power(_filtered(sound, lambda hz: response(room, hz))) * 10 ** (loudness / 20)


def _track(random: np.random.Generator, sound: Sound, pitch: float, rate: float, samples: int) -> np.ndarray:
    """Return all occurrences of a sound in a clip, each with mean power 1. Shape: ``[samples]``."""
    if sound.seconds is None:
        return _note(random, sound, pitch, samples)
    track = np.zeros(samples)
    for _ in range(max(1, int(rate * samples / SAMPLE_RATE + random.random()))):
        # a multiple of 10 ms, which has a fast FFT
        length = SAMPLE_RATE // 100 * round(100 * random.uniform(*sound.seconds))
        start = int(random.random() * samples)
        for _ in range(sound.notes):
            note = _note(random, sound, pitch * 2 ** random.uniform(-0.3, 0.3), length)
            track[start:start + length] += note[:samples - start]
            start = min(start + round(1.4 * length), samples)
    return track


def _note(random: np.random.Generator, sound: Sound, pitch: float, samples: int) -> np.ndarray:
    """Return a sound once, with mean power 1. Shape: ``[samples]``."""
    progress = np.arange(samples) / samples
    if sound.harmonics:
        bend = sound.glide * random.uniform(-1, 1) * np.sin(np.pi * progress)
        phase = 2 * np.pi * np.cumsum(pitch * 2**bend) / SAMPLE_RATE
        # the sum of sin(k x) / k, by sin((k + 1) x) = 2 cos(x) sin(k x) - sin((k - 1) x)
        below, this, twice_cos = np.zeros_like(phase), np.sin(phase), 2 * np.cos(phase)
        wave = this.copy()
        for k in range(2, sound.harmonics + 1):
            below, this = this, twice_cos * this - below
            wave += this / k
    else:  # noise that falls by 6 dB an octave on both sides of the pitch
        wave = _filtered(random.random(samples) - 0.5,
                         lambda hz: -6 * np.abs(np.log2(np.maximum(hz, 1) / pitch)))
    if sound.struck:
        wave = wave * np.exp(-6 * progress)
    elif sound.seconds is not None:
        wave = wave * np.sin(np.pi * progress) ** 2
    return _unit_power(wave)


def record(sound: np.ndarray, device: Device) -> np.ndarray:
    """Record a sound with a device: frequency response, then compressor.

    The compressor is feed-forward, with a mean-square detector of 20 ms and without make-up gain
    (Giannoulis et al., *Digital dynamic range compressor design*, J. Audio Eng. Soc. 60(6), 2012).

    Shape: ``[samples]`` to ``[samples]``.
    """
    from scipy.signal import lfilter  # takes a second, and most runs find the clips there

    filtered = _filtered(sound, lambda hz: response(device.response, hz))
    if device.ratio == 1:
        return filtered
    keep = np.exp(-1 / (0.02 * SAMPLE_RATE))
    power = lfilter([1 - keep], [1, -keep], filtered**2)
    over = np.maximum(10 * np.log10(power + 1e-12) - device.threshold, 0)
    # of each dB above the threshold, 1 / ratio is left
    return filtered * 10 ** (over * (1 / device.ratio - 1) / 20)


def response(octaves: Sequence[float] | np.ndarray, hz: np.ndarray) -> np.ndarray:
    """Return a frequency response in dB at ``hz``, from its values at :data:`OCTAVES`.

    It is linear in dB over log frequency between them, and constant beyond them. Shape: that of
    ``hz``.
    """
    return np.interp(np.log2(np.maximum(hz, 1)), np.log2(OCTAVES), octaves)


def _filtered(wave: np.ndarray, decibels: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Apply a zero-phase filter, given by its response in dB as a function of Hz."""
    hz = np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    return np.fft.irfft(np.fft.rfft(wave) * 10 ** (decibels(hz) / 20), len(wave))


def _unit_power(wave: np.ndarray) -> np.ndarray:
    return wave / np.sqrt(np.mean(wave**2))


def _generator(name: str) -> np.random.Generator:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.PCG64(seed))
