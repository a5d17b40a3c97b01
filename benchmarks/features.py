"""How fast features are computed, beside torchaudio and librosa, and how the cache scales over processes.

    python benchmarks/features.py [--clips 64] [--audio DIR] [--rounds 3]

The three pipelines give the same features from the same files, one thread each, in turn, by processor time, so that
little depends on what else the machine does. The builds of the cache hash and write as in earnest and are timed by the
clock, so that two workers need two idle cores; their start is taken out by timing a small and a large build.
"""
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
from threadpoolctl import threadpool_limits

from task1a.compat import torchaudio
from task1a.config import FeatureConfig
from task1a.errors import CommandParser, InputError, run_command
from task1a.features.audio import read_clip
from task1a.features.build import build
from task1a.features.log_mel import LogMel

Pipeline = Callable[[Path], np.ndarray]
SMALL_BUILD, LARGE_BUILD = 4, 16  # times the number of clips


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = CommandParser(prog="benchmarks/features.py", description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=64, help="number of clips to synthesise, or to take of --audio")
    parser.add_argument("--audio", type=Path, help="folder of WAV files to measure on instead")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions, of which the median counts")
    args = parser.parse_args(argv)
    features = FeatureConfig()
    with tempfile.TemporaryDirectory() as scratch:
        clips = _own(args.audio, args.clips) if args.audio else _synthesised(Path(scratch) / "clips", args.clips)
        torch.set_num_threads(1)
        with threadpool_limits(1):
            _compare_pipelines(clips, features, args.rounds)
        _scale(clips, features, Path(scratch), args.rounds)
    return 0


def ours(features: FeatureConfig) -> Pipeline:
    """This project: soundfile, soxr, FFT of torch, sparse mel filters."""
    log_mel = LogMel(features)
    return lambda path: log_mel(read_clip(path, features))


def torchaudio_alone(features: FeatureConfig, rate: int) -> Pipeline:
    """The transforms of torchaudio, made once; soundfile to decode."""
    resample = torchaudio.transforms.Resample(rate, features.sample_rate)
    mel = torchaudio.transforms.MelSpectrogram(
        features.sample_rate, n_fft=features.n_fft, win_length=features.window, hop_length=features.hop,
        f_min=features.f_min, f_max=features.f_max, n_mels=features.n_mels)

    def pipeline(path: Path) -> np.ndarray:
        waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        return torch.log(mel(resample(waveform)) + features.log_floor).numpy()
    return pipeline


def librosa_alone(features: FeatureConfig) -> Pipeline:
    """librosa with the resampler and the definition of this project."""
    def pipeline(path: Path) -> np.ndarray:
        waveform, rate = soundfile.read(path, dtype="float32")
        waveform = librosa.resample(waveform, orig_sr=rate, target_sr=features.sample_rate, res_type="soxr_hq")
        mel = librosa.feature.melspectrogram(
            y=waveform, sr=features.sample_rate, n_fft=features.n_fft, win_length=features.window,
            hop_length=features.hop, fmin=features.f_min, fmax=features.f_max, n_mels=features.n_mels, htk=True,
            norm=None, pad_mode="reflect")
        return np.log(mel + np.float32(features.log_floor))
    return pipeline


def _compare_pipelines(clips: Sequence[Path], features: FeatureConfig, rounds: int) -> None:
    pipelines = {"task1a": ours(features), "soundfile + torchaudio": torchaudio_alone(features, _rate(clips)),
                 "librosa": librosa_alone(features)}
    results = {name: pipeline(clips[0]) for name, pipeline in pipelines.items()}  # also warms up
    seconds = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, pipeline in pipelines.items():
            started = time.process_time()
            for clip in clips:
                pipeline(clip)
            seconds[name].append(time.process_time() - started)
    print(f"one core, {len(clips)} clips, median of {rounds} rounds")
    for name, spent in seconds.items():
        ratio = statistics.median(there / here for there, here in zip(spent, seconds["task1a"], strict=True))
        apart = np.abs(results[name] - results["task1a"]).mean()
        print(f"  {name:24}{len(clips) / statistics.median(spent):8.1f} clips/s   task1a is {ratio:.2f} x as fast   "
              f"mean difference of the features {apart:.1e}")


def _scale(clips: Sequence[Path], features: FeatureConfig, scratch: Path, rounds: int) -> None:
    root = scratch / "set"
    root.mkdir()
    small_build, large_build = SMALL_BUILD * len(clips), LARGE_BUILD * len(clips)
    for number in range(large_build):
        _link(clips[number % len(clips)], root / f"{number}.wav")
    rates = {1: [], 2: []}
    for _ in range(rounds):
        for workers, measured in rates.items():
            small, large = (_build(root, count, features, scratch / "cache", workers)
                            for count in (small_build, large_build))
            measured.append((large_build - small_build) / (large - small))
    scaling = statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True))
    print(f"building the cache, median of {rounds} rounds")
    print(f"  1 worker                {statistics.median(rates[1]):8.1f} clips/s")
    print(f"  2 workers               {statistics.median(rates[2]):8.1f} clips/s   {scaling:.2f} x as fast as 1")


def _build(root: Path, count: int, features: FeatureConfig, cache_dir: Path, workers: int) -> float:
    started = time.perf_counter()
    build(root, [f"{number}.wav" for number in range(count)], features, cache_dir, workers)
    seconds = time.perf_counter() - started
    shutil.rmtree(cache_dir)
    return seconds


def _synthesised(folder: Path, count: int) -> list[Path]:
    """Noise in the format of the challenge's recordings: 10 s, 44.1 kHz, 24 bit, mono."""
    folder.mkdir()
    paths = [folder / f"{number}.wav" for number in range(count)]
    for seed, path in enumerate(paths):
        soundfile.write(path, np.random.default_rng(seed).normal(0, 0.1, 441000), 44100, subtype="PCM_24")
    return paths


def _own(folder: Path, count: int) -> list[Path]:
    paths = sorted(folder.rglob("*.wav"))[:count]
    if not paths:
        raise InputError(f"{folder}: holds no WAV file")
    _rate(paths)
    return paths


def _rate(clips: Sequence[Path]) -> int:
    formats = {(info.samplerate, info.channels) for info in map(soundfile.info, clips)}
    if len(formats) > 1 or next(iter(formats))[1] != 1:
        raise InputError("--audio: the other pipelines need mono clips of one sampling rate")
    return next(iter(formats))[0]


def _link(source: Path, target: Path) -> None:
    try:
        os.symlink(source.resolve(), target)
    except OSError:  # Windows, without the right to
        shutil.copyfile(source, target)


if __name__ == "__main__":
    sys.exit(run_command(main))
