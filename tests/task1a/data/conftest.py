"""A small data set in the TAU layout: three recording locations of two scenes in train, two in test, one unused."""
import numpy as np
import pytest
import soundfile

META = """filename\tscene_label\tidentifier\tsource_label
audio/bus-lyon-1-10-a.wav\tbus\tlyon-1\ta
audio/bus-lyon-1-10-b.wav\tbus\tlyon-1\tb
audio/park-lyon-2-11-a.wav\tpark\tlyon-2\ta
audio/park-porto-3-12-a.wav\tpark\tporto-3\ta
audio/bus-porto-4-13-a.wav\tbus\tporto-4\ta
audio/bus-porto-4-13-s4.wav\tbus\tporto-4\ts4
audio/park-lyon-5-14-a.wav\tpark\tlyon-5\ta
audio/park-lyon-6-15-a.wav\tpark\tlyon-6\ta
"""
TRAIN = """filename\tscene_label
audio/bus-lyon-1-10-a.wav\tbus
audio/bus-lyon-1-10-b.wav\tbus
audio/park-lyon-2-11-a.wav\tpark
audio/park-porto-3-12-a.wav\tpark
"""
EVALUATE = """filename\tscene_label
audio/bus-porto-4-13-a.wav\tbus
audio/bus-porto-4-13-s4.wav\tbus
audio/park-lyon-5-14-a.wav\tpark
"""
TEST = "filename\naudio/bus-porto-4-13-a.wav\naudio/bus-porto-4-13-s4.wav\naudio/park-lyon-5-14-a.wav\n"
EVALUATION = "filename\naudio/0.wav\naudio/1.wav\n"


def write_audio(path, seconds=0.1):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, round(44100 * seconds))
    soundfile.write(path, samples, 44100, subtype="PCM_24")


def write_tables(root, **tables):
    for name, text in tables.items():
        path = root / "meta.csv" if name == "meta" else root / "evaluation_setup" / f"fold1_{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\n")


@pytest.fixture
def development(tmp_path):
    root = tmp_path / "small-development"
    write_tables(root, meta=META, train=TRAIN, test=TEST, evaluate=EVALUATE)
    (root / "audio").mkdir()
    for line in META.splitlines()[1:]:
        write_audio(root / line.split("\t")[0])
    return root


@pytest.fixture
def evaluation(tmp_path):
    root = tmp_path / "small-evaluation"
    write_tables(root, test=EVALUATION)
    (root / "audio").mkdir()
    for number in range(2):
        write_audio(root / "audio" / f"{number}.wav")
    return root


@pytest.fixture
def edit():
    """Replace text in a file, which must be there."""
    def replace(path, old, new):
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")
    return replace
