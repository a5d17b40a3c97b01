"""Eight clips whose scores can be worked out by hand: nearly every probability is a power of one half."""
import pandas as pd
import pytest

# filename, true label, device, decided label, p(bus), p(park), p(tram)
CLIPS = [
    ("bus-oslo-1-0-a", "bus", "a", "bus", 0.5, 0.25, 0.25),
    ("bus-oslo-1-1-a", "bus", "a", "park", 0.25, 0.5, 0.25),
    ("park-oslo-2-0-a", "park", "a", "park", 0.25, 0.5, 0.25),
    ("park-oslo-2-1-b", "park", "b", "bus", 1.0, 0.0, 0.0),
    ("bus-oslo-1-0-s1", "bus", "s1", "bus", 0.5, 0.25, 0.25),
    ("park-oslo-2-0-s1", "park", "s1", "tram", 0.25, 0.25, 0.5),
    ("bus-oslo-1-0-s4", "bus", "s4", "bus", 1.0, 0.0, 0.0),
    ("tram-oslo-3-0-s4", "tram", "s4", "tram", 0.25, 0.25, 0.5),
]


@pytest.fixture
def reference():
    return pd.DataFrame([(f"audio/{clip[0]}.wav", clip[1], clip[2]) for clip in CLIPS],
                        columns=["filename", "scene_label", "device"])


@pytest.fixture
def predictions():
    return pd.DataFrame([(f"audio/{clip[0]}.wav", *clip[3:]) for clip in CLIPS],
                        columns=["filename", "scene_label", "bus", "park", "tram"])
