from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from task1a import config
from task1a.errors import InputError

SYSTEMS = sorted((Path(__file__).resolve().parents[2] / "system_configs").glob("*.yaml"))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_every_shipped_system_loads_and_reads_itself_back(path, tmp_path):
    loaded = config.load(path)
    assert loaded.system == path.stem and loaded.description
    assert config.load(write(tmp_path, "again.yaml", config.to_yaml(loaded))) == loaded


def test_the_paper_recipe_is_written_out_in_the_shipped_base():
    """Every number of the recipe stands in the YAML, none is left to a default of the code."""
    path = next(path for path in SYSTEMS if path.stem == "bcresnet_asc_1")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section in ("features", "training"):
        names = {f.name for f in fields(getattr(config.load(path), section))}
        assert names - set(tree[section]) <= {"precision", "channels_last", "calibrate"}
    recipe = tree["training"]
    assert [recipe[key] for key in ("epochs", "batch_size", "learning_rate", "warmup_epochs", "momentum",
                                    "mixup_alpha", "frequency_mask_bins", "time_mask_frames", "roll_seconds")] == [
        100, 64, 0.06, 5, 0.9, 0.3, 40, 80, 1.5]
    assert config.load(path).features.frames == 334


def test_a_base_gives_what_is_not_said(tmp_path):
    write(tmp_path, "base.yaml", "training: {epochs: 7, batch_size: 4}\nmodel: {tau: 2}\n")
    path = write(tmp_path, "child.yaml", "base: base.yaml\ntraining: {epochs: 9}\n")
    child = config.load(path, ["model.tau=3", "training.weight_decay=1e-4"])
    assert (child.system, child.training.epochs, child.training.batch_size) == ("child", 9, 4)
    assert (child.model.tau, child.training.weight_decay) == (3.0, 1e-4)


@pytest.mark.parametrize("override, message", [
    ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
    ("epochs=3", "did you mean 'training.epochs'?"),
    ("model.n_mels=3", "did you mean 'features.n_mels'?"),
    ("training.epochs=abc", "training.epochs: Input should be a valid integer (given 'abc')"),
    ("training.epochs=true", "training.epochs: Input should be a valid integer (given True)"),
    ("training.epochs=2.5", "training.epochs: "),
    ("training.epochs=1", "training.warmup_epochs=5 exceeds training.epochs=1"),
    ("model.residual_norm=some", "model.residual_norm: Input should be 'all', 'input' or 'none' (given 'some')"),
    ("model.tau=-1", "model.tau: Input should be greater than 0"),
    ("training.mixup_alpha=2020-01-01", "training.mixup_alpha: "),
    ("features.window=9999", "features.window=9999 is longer than features.n_fft=4096"),
    ("features.f_max=9000", "features.f_max=9000"),
    ("training=3", "training: must hold keys (epochs, "),
    ("training.epochs", "an override is written section.key=value"),
    ("=3", "an override is written section.key=value"),
    ("system=../up", "system: String should match"),
    ("submission.abbreviation=ElevenChars", "submission.abbreviation: "),
])
def test_a_wrong_override_is_named(override, message):
    with pytest.raises(InputError) as error:
        config.load(SYSTEMS[0].with_name("bcresnet_asc_1.yaml"), [override])
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("text, message", [
    ("- a", "must hold sections (data, features, model"),
    ("a: [", "not valid YAML"),
    ("base: ../base.yaml", "must be the name of a file in the same folder"),
    ("base: other.yaml", "no such configuration"),
    ("base: wrong.yaml", "builds on this file itself"),
    ("trainign: {}", "did you mean 'training"),
    ("model: !!python/object/apply:os.system [ls]", "not valid YAML"),
])
def test_a_wrong_file_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match="wrong.yaml|other.yaml") as error:
        config.load(write(tmp_path, "wrong.yaml", text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_misspelt_file_is_guessed():
    with pytest.raises(InputError, match="did you mean bcresnet_asc_1.yaml?"):
        config.load(SYSTEMS[0].with_name("bcresnet_asc1.yaml"))


def test_fingerprints_tell_values_apart():
    base = config.FeatureConfig()
    assert config.fingerprint(base) == config.fingerprint(config.FeatureConfig(n_mels=256))
    assert config.fingerprint(base) != config.fingerprint(config.FeatureConfig(n_mels=255))


def test_every_key_is_documented_in_the_source():
    source = Path(config.__file__).read_text(encoding="utf-8")
    for section in (config.Config, *(f.type for f in fields(config.Config) if is_dataclass(f.type))):
        for key in fields(section):
            if not is_dataclass(key.type):
                line = next(i for i, text in enumerate(source.splitlines()) if text.startswith(f"    {key.name}: "))
                assert source.splitlines()[line + 1].lstrip().startswith('"""'), key.name
