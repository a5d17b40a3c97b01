"""Live samples from the sound card, through PortAudio (the package sounddevice)."""
import queue
from collections.abc import Iterator
from typing import Any

import numpy as np

from task1a.errors import InputError

_LONGEST_WAIT = 5.0  # seconds without samples after which the device is taken to be gone


def windows(seconds: float, step: float) -> Iterator[tuple[np.ndarray, int]]:
    """Record the default input device, and yield the last samples again and again.

    What arrives while a window is being processed is not lost, but only the newest window is
    yielded.

    Args:
        seconds: length of a window. The first ones are shorter, from ``step`` seconds on.
        step: least time between the ends of two windows, in seconds.

    Yields:
        float32 [samples], mono, and their sampling rate.

    Raises:
        InputError: sounddevice or PortAudio is not installed, or there is no usable input device.
    """
    try:
        import sounddevice
    except ImportError:
        raise InputError("--microphone needs sounddevice: pip install -e '.[microphone]'") from None
    except OSError:
        raise InputError("--microphone needs the PortAudio library, e.g. apt-get install libportaudio2") from None
    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        blocks: queue.SimpleQueue[np.ndarray] = queue.SimpleQueue()

        def receive(samples: np.ndarray, *_: Any) -> None:
            blocks.put(samples[:, 0].copy())  # PortAudio uses its buffer again

        with sounddevice.InputStream(samplerate=rate, channels=1, dtype="float32", callback=receive):
            recorded, new = np.empty(0, np.float32), 0
            while True:
                arrived = [blocks.get(timeout=_LONGEST_WAIT)]
                while not blocks.empty():
                    arrived.append(blocks.get())
                new += sum(map(len, arrived))
                recorded = np.concatenate([recorded, *arrived])[-round(seconds * rate):]
                if new >= step * rate:
                    yield recorded, rate
                    new = 0
    except (sounddevice.PortAudioError, ValueError) as error:
        raise InputError(f"--microphone: no usable input device ({' '.join(str(error).split())})") from None
    except queue.Empty:
        raise InputError(f"--microphone: the input device has sent nothing for {_LONGEST_WAIT:g} s") from None
