"""Speed of the features, compared with other libraries and a lower bound, and of building the cache.

    python benchmarks/features.py [--clips 64] [--audio DIR] [--rounds 3]

The pipelines read the same files in one thread, in turn, and are timed by processor time, so that
other load on the machine matters little. Those of torchaudio and librosa compute the same features.
That of dcase_util is what its users run: it computes in float64, normalises the filters by area and
pads with zeros, so its values differ. The lower bound decodes, resamples and transforms like the
features, and leaves out mel bands and logarithm. Freed memory is kept for all of them, without
which whole-clip transforms, the lower bound among them, would take longer.

Builds of the cache are timed by the clock, in one and in two processes, so two workers need two
idle cores; the difference between a large and a small build leaves out the time to start.
"""
import importlib.util
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import librosa
import numpy as np
import scipy.signal
import soundfile
import soxr
import torch
from threadpoolctl import threadpool_limits

from task1a.config import FeatureConfig
from task1a.errors import CommandParser, InputError, run_command
from task1a.features.audio import read_clip
from task1a.features.build import build
from task1a.features.compat import torchaudio
from task1a.features.log_mel import LogMel
from task1a.machine import keep_freed_memory

Pipeline = Callable[[Path], np.ndarray]
SMALL_BUILD, LARGE_BUILD = 4, 16  # times the number of clips
LOWER_BOUND = "lower bound"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; returns 0."""
    parser = CommandParser(prog="benchmarks/features.py", description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=64, help="number of clips (default: 64); with fewer than 33, the "
                        "time of two workers includes their start")
    parser.add_argument("--audio", type=Path, metavar="DIR", help="folder of WAV files to use; default: noise")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds; medians are printed")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        if arguments.audio:
            clips = sorted(arguments.audio.rglob("*.wav"))[:arguments.clips]
        else:
            # the format of the challenge's recordings: 10 s, 44.1 kHz, 24 bit, mono
            clips = [Path(scratch) / f"{number}.wav" for number in range(arguments.clips)]
            for seed, clip in enumerate(clips):
                noise = np.random.default_rng(seed).normal(0, 0.1, 441000)
                soundfile.write(clip, noise, 44100, subtype="PCM_24")
        infos = [soundfile.info(clip) for clip in clips]
        if len({info.samplerate for info in infos}) != 1 or {info.channels for info in infos} != {1}:
            raise InputError(f"{arguments.audio}: must hold mono WAV files of one sampling rate")

        keep_freed_memory()
        torch.set_num_threads(1)
        with threadpool_limits(1):
            compare_pipelines(clips, FeatureConfig(), arguments.rounds)
        compare_workers(clips, FeatureConfig(), Path(scratch), arguments.rounds)
    return 0


def ours(features: FeatureConfig) -> Pipeline:
    """Compute as this project: soundfile, soxr, FFT of torch, sparse mel filters."""
    log_mel = LogMel(features)
    return lambda path: log_mel(read_clip(path, features))


def torchaudio_alone(features: FeatureConfig, rate: int) -> Pipeline:
    """Decode with soundfile, then use transforms of torchaudio."""
    resample = torchaudio.transforms.Resample(rate, features.sample_rate)
    mel = torchaudio.transforms.MelSpectrogram(
        features.sample_rate, n_fft=features.n_fft, win_length=features.window, hop_length=features.hop,
        f_min=features.f_min, f_max=features.f_max, n_mels=features.n_mels)

    def pipeline(path: Path) -> np.ndarray:
        waveform = torch.from_numpy(soundfile.read(path, dtype="float32")[0])
        return torch.log(mel(resample(waveform)) + features.log_floor).numpy()
    return pipeline


def librosa_alone(features: FeatureConfig) -> Pipeline:
    """Decode with soundfile, then use librosa, with soxr."""
    def pipeline(path: Path) -> np.ndarray:
        waveform, rate = soundfile.read(path, dtype="float32")
        waveform = librosa.resample(waveform, orig_sr=rate, target_sr=features.sample_rate, res_type="soxr_hq")
        mel = librosa.feature.melspectrogram(
            y=waveform, sr=features.sample_rate, n_fft=features.n_fft, win_length=features.window,
            hop_length=features.hop, fmin=features.f_min, fmax=features.f_max, n_mels=features.n_mels, htk=True,
            norm=None, pad_mode="reflect")
        return np.log(mel + np.float32(features.log_floor))
    return pipeline


def dcase_util_as_it_comes(features: FeatureConfig, res_type: str) -> Pipeline:
    """Use AudioContainer and MelExtractor of dcase_util, which resample and transform with librosa.

    MelExtractor takes its windows from where scipy no longer has them, so they are put there again.
    ``res_type`` is the resampler: ``kaiser_best`` is the default and needs the package resampy,
    ``soxr_hq`` works without it.
    """
    for name in ("hamming", "hann"):
        setattr(scipy.signal, name, getattr(scipy.signal.windows, name))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pkg_resources
        from dcase_util.containers import AudioContainer
        from dcase_util.features import MelExtractor

    extractor = MelExtractor(
        fs=features.sample_rate, win_length_samples=features.window, hop_length_samples=features.hop,
        n_fft=features.n_fft, window_type="hann_asymmetric", spectrogram_type="power", n_mels=features.n_mels,
        fmin=features.f_min, fmax=features.f_max, htk=True)

    def pipeline(path: Path) -> np.ndarray:
        audio = AudioContainer().load(filename=str(path), fs=features.sample_rate, mono=True, res_type=res_type)
        return extractor.extract(audio)
    return pipeline


def transform_alone(features: FeatureConfig) -> Pipeline:
    """Compute the lower bound: soundfile to decode, soxr to resample, and a bare short-time Fourier
    transform of torch."""
    window = torch.hann_window(features.window)

    def pipeline(path: Path) -> np.ndarray:
        waveform, rate = soundfile.read(path, dtype="float32")
        waveform = torch.from_numpy(soxr.resample(waveform, rate, features.sample_rate, quality="HQ"))
        return torch.stft(waveform, features.n_fft, features.hop, features.window, window, return_complex=True).numpy()
    return pipeline


def compare_pipelines(clips: Sequence[Path], features: FeatureConfig, rounds: int) -> None:
    """Time the pipelines over all clips."""
    rate = soundfile.info(clips[0]).samplerate
    pipelines = {"task1a": ours(features), LOWER_BOUND: transform_alone(features),
                 "soundfile + torchaudio": torchaudio_alone(features, rate), "librosa": librosa_alone(features),
                 "dcase_util, soxr_hq": dcase_util_as_it_comes(features, "soxr_hq")}
    if importlib.util.find_spec("resampy"):
        pipelines["dcase_util, kaiser_best"] = dcase_util_as_it_comes(features, "kaiser_best")
    else:
        print("dcase_util with its default resampler is omitted: pip install resampy")
    results = {name: pipeline(clips[0]) for name, pipeline in pipelines.items()}  # also warms up
    seconds = {name: [] for name in pipelines}
    for _ in range(rounds):
        for name, pipeline in pipelines.items():
            started = time.process_time()
            for clip in clips:
                pipeline(clip)
            seconds[name].append(time.process_time() - started)

    print(f"one core, {len(clips)} clips, median of {rounds} rounds")
    for name, theirs in seconds.items():
        ratio = median(np.divide(theirs, seconds["task1a"]))
        line = f"  {name:24}{len(clips) / median(theirs):8.1f} clips/s   "
        if name == LOWER_BOUND:
            line += f"task1a takes {1 / ratio:.2f} x as long"
        else:
            difference = np.abs(results[name] - results["task1a"]).mean()
            line += f"task1a is {ratio:.2f} x as fast   mean difference of the features {difference:.1e}"
        print(line)


def compare_workers(clips: Sequence[Path], features: FeatureConfig, scratch: Path, rounds: int) -> None:
    """Time builds of the cache with one and with two workers."""
    small, large = SMALL_BUILD * len(clips), LARGE_BUILD * len(clips)
    root, cache = scratch / "set", scratch / "cache"
    root.mkdir()
    names = [f"{number}.wav" for number in range(large)]
    for number, name in enumerate(names):
        clip = clips[number % len(clips)].resolve()
        try:
            os.symlink(clip, root / name)
        except OSError:  # Windows, without the right to make links
            shutil.copyfile(clip, root / name)

    rates = {1: [], 2: []}
    for _ in range(rounds):
        for workers, measured in rates.items():
            seconds = {}
            for count in (small, large):
                started = time.perf_counter()
                build(root, names[:count], features, cache, workers)
                seconds[count] = time.perf_counter() - started
                shutil.rmtree(cache)
            measured.append((large - small) / (seconds[large] - seconds[small]))

    ratio = median(np.divide(rates[2], rates[1]))
    print(f"building the cache, median of {rounds} rounds")
    print(f"  1 worker                {median(rates[1]):8.1f} clips/s")
    print(f"  2 workers               {median(rates[2]):8.1f} clips/s   {ratio:.2f} x as fast as 1")


if __name__ == "__main__":
    sys.exit(run_command(main))
