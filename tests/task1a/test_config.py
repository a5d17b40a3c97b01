import json
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from task1a import config, config_file
from task1a.errors import InputError
from task1a.model_file import ModelSpec
from task1a.training import fit

SYSTEMS = sorted((Path(__file__).resolve().parents[2] / "system_configs").glob("*.yaml"))


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", SYSTEMS, ids=lambda path: path.stem)
def test_every_shipped_system_loads_and_reads_itself_back(path, tmp_path):
    loaded = config_file.load(path)
    assert loaded.system == path.stem and loaded.description
    assert config_file.load(write(tmp_path, "again.yaml", config_file.to_yaml(loaded))) == loaded


def test_the_paper_recipe_is_written_out_in_the_shipped_base():
    """Every number of the recipe stands in the YAML, none is left to a default of the code."""
    path = next(path for path in SYSTEMS if path.stem == "bcresnet_asc_1")
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    not_of_the_paper = {"precision", "channels_last", "calibrate", "pilot_fraction", "averaging_epochs", "init_from",
                        "devices", "device_probability", "device_response_db", "device_compression", "device_noise_db",
                        "translation_probability", "reestimate_norms"}
    for section in ("features", "training"):
        names = {f.name for f in fields(getattr(config_file.load(path), section))}
        assert names - set(tree[section]) <= not_of_the_paper
    recipe = tree["training"]
    assert [recipe[key] for key in ("epochs", "batch_size", "learning_rate", "warmup_epochs", "momentum",
                                    "mixup_alpha", "frequency_mask_bins", "time_mask_frames", "roll_seconds")] == [
        100, 64, 0.06, 5, 0.9, 0.3, 40, 80, 1.5]
    assert config_file.load(path).features.frames == 334


def test_the_rows_of_table_4_differ_in_what_the_table_says():
    rows = {name: config_file.load(SYSTEMS[0].with_name(f"bcresnet_asc_8_{name}.yaml"))
            for name in ("vanilla", "compressed", "compressed_kd")}
    assert all((row.model.tau, row.model.residual_norm, row.training.epochs) == (8, "all", 300)
               for row in rows.values())
    assert len({config.fingerprint(row.training) for row in rows.values()}) == 1  # they share the vanilla model
    compressed = rows["compressed"].compression, rows["compressed_kd"].compression
    assert not rows["vanilla"].compression.enabled and all(row.enabled and row.ratio == 0.89 for row in compressed)
    assert compressed[0].teachers == () and replace(compressed[0], teachers=("vanilla",)) == compressed[1]
    written = yaml.safe_load(SYSTEMS[0].with_name("bcresnet_asc_8_compressed.yaml").read_text(encoding="utf-8"))
    distilling = {"temperature", "cross_entropy_weight", "distillation_weight"}
    assert {f.name for f in fields(config.CompressionConfig)} - set(written["compression"]) == distilling


ASC = {"name": "bcresnet_asc", "front_end": "log_mel", "tau": 1, "residual_norm": "none"}
RESNORM = {**ASC, "residual_norm": "all", "residual_norm_shortcut": 0.1}
ROWS_OF_TABLES_2_AND_3 = {
    "bcresnet_asc_1": ASC,
    "bcresnet_asc_1_freqnorm": {**ASC, "front_end": "freqnorm"},
    "bcresnet_asc_1_pcen": {**ASC, "front_end": "pcen"},
    "bcresnet_asc_1_resnorm": RESNORM,
    "bcresnet_asc_1_resnorm_input": {**RESNORM, "residual_norm": "input"},
    "bcresnet_asc_1_resnorm_noshortcut": {**RESNORM, "residual_norm_shortcut": 0},
    "bcresnet_asc_8_resnorm": {**RESNORM, "tau": 8},
    "bcresnet_asc_8_resnorm_input": {**RESNORM, "tau": 8, "residual_norm": "input"},
    "bcresnet_asc_8_resnorm_noshortcut": {**RESNORM, "tau": 8, "residual_norm_shortcut": 0},
    "bcresnet_asc_8": {**ASC, "tau": 8},
    "bcresnet_8": {"name": "bcresnet", "front_end": "log_mel", "tau": 8, "sub_bands": 4},
    "cp_resnet_64": {"name": "cp_resnet", "front_end": "log_mel", "width": 64, "rho": 5},
}


@pytest.mark.parametrize("name", ROWS_OF_TABLES_2_AND_3)
def test_the_rows_of_tables_2_and_3_differ_in_their_networks_alone(name):
    first, row = (config_file.load(SYSTEMS[0].with_name(f"{stem}.yaml")) for stem in ("bcresnet_asc_1", name))
    assert vars(row.model).items() >= ROWS_OF_TABLES_2_AND_3[name].items()
    same = replace(first, system=row.system, description=row.description, model=row.model, submission=row.submission)
    assert row == same and row.training.epochs == 100 and not row.compression.enabled


@pytest.mark.parametrize("kind", config.NETWORKS.values(), ids=lambda kind: kind.name)
def test_every_architecture_has_its_own_settings_and_no_others(kind):
    settings = kind().settings
    others = {"tau": 1, "sub_bands": 4, "dropout": 0.1, "residual_norm": "all", "width": 64, "rho": 5}
    for key in others.keys() - settings.keys():
        message = f"model.{key}: {kind.name} has no such setting, only {', '.join(settings)}"
        with pytest.raises(InputError, match=message):
            config_file.from_tree({"system": "x", "model": {"name": kind.name, key: others[key]}}, "x")


def test_another_architecture_drops_the_settings_of_the_base(tmp_path):
    write(tmp_path, "base.yaml", "model: {tau: 2, dropout: 0.3, front_end: pcen}\n")
    path = write(tmp_path, "child.yaml", "base: base.yaml\nmodel: {name: cp_resnet, rho: 4}\n")
    child = config_file.load(path)
    assert child.model.settings == {"width": 64, "rho": 4} and child.model.front_end == "pcen"
    given = config_file.load(path.with_name("base.yaml"), ["model.width=32", "model.name=cp_resnet"])
    assert given.model.settings == {"width": 32, "rho": 5}
    kept = config_file.load(path.with_name("base.yaml"), ["model.name=bcresnet"])  # shared settings stay
    assert (kept.model.tau, kept.model.dropout, kept.model.sub_bands) == (2, 0.3, 4)
    assert config_file.load(path, ["model.tau=null", "model.rho=null"]).model.settings == {"width": 64, "rho": 5}
    with pytest.raises(InputError, match="command line: model.tau: cp_resnet has no such setting, only width, rho"):
        config_file.load(path.with_name("base.yaml"), ["model.tau=3", "model.name=cp_resnet"])


@pytest.mark.parametrize("file, overrides, warmup", [
    ("", ["training.epochs=2"], 1), ("", ["training.epochs=1"], 0.5), ("", ["training.epochs=5"], 5),
    ("training: {warmup_epochs: 8}", ["training.epochs=4"], 2), ("training: {epochs: 3}", [], 1.5),
    ("training: {epochs: 3}", ["training.epochs=20"], 1.5), ("", ["training.epochs=4", "training.warmup_epochs=3"], 3),
])
def test_warmup_is_cut_to_a_shorter_training(tmp_path, file, overrides, warmup):
    write(tmp_path, "base.yaml", "training: {epochs: 50}\ncompression: {epochs: 30, pruning_epochs: 20}\n")
    child = config_file.load(write(tmp_path, "child.yaml", f"base: base.yaml\n{file}\n"), [*overrides,
                                                                                    "compression.epochs=10"])
    assert child.training.warmup_epochs == warmup
    assert child.compression.warmup_epochs == 1 and child.compression.pruning_spread == 5


BASE = """description: of the base
submission: {name: Name of the base, abbreviation: Base, source_code: "https://example.org"}
data: {source: demo}
"""


@pytest.mark.parametrize("overrides, options, description, name, abbreviation", [
    ([], {}, "of the base", "Name of the base", "Base"),
    (["seed=3", "data.workers=1", "evaluation.batch_size=8"], {}, "of the base", "Name of the base", "Base"),
    ([], {"data.source": "tau_layout", "data.root": "own"}, "BC-ResNet-ASC-1 with Residual Normalization",
     "Name of the base", "Base"),
    (["training.epochs=9"], {}, "BC-ResNet-ASC-1 with Residual Normalization", "Name of the base", "Base"),
    (["model.residual_norm=none", "model.tau=2"], {}, "BC-ResNet-ASC-2", "BC-ResNet-ASC-2", "BCRes2"),
    (["model.tau=2.5", "model.residual_norm=input", "compression.enabled=true"], {},
     *["BC-ResNet-ASC-2.5 with Residual Normalization at the input, compressed with knowledge distillation"] * 2,
     "BCRes2.5"),
    (["model.name=cp_resnet", "model.front_end=pcen"], {}, *["CP-ResNet-64 with PCEN"] * 2, "CPRes64"),
    (["model.tau=2", "description=mine", "submission.name=Mine"], {}, "mine", "Mine", "BCRes2"),
])
def test_names_are_those_of_the_system(tmp_path, overrides, options, description, name, abbreviation):
    loaded = config_file.load(write(tmp_path, "base.yaml", BASE), overrides, options)
    assert (loaded.description, loaded.submission.name, loaded.submission.abbreviation) == (
        description, name, abbreviation)
    assert loaded.submission.source_code == "https://example.org"
    assert config_file.load(write(tmp_path, "config.yaml", config_file.to_yaml(loaded))) == loaded


def test_names_are_not_inherited(tmp_path):
    write(tmp_path, "base.yaml", BASE)
    child = config_file.load(write(tmp_path, "child.yaml", "base: base.yaml\nmodel: {residual_norm_shortcut: 0}\n"))
    assert child.description == child.submission.name == "BC-ResNet-ASC-1 with frequency-wise instance normalization"
    assert child.submission.source_code == "https://example.org" and child.data.source == "demo"


def test_a_base_gives_what_is_not_said(tmp_path):
    write(tmp_path, "base.yaml", "training: {epochs: 7, batch_size: 4}\nmodel: {tau: 2}\n")
    path = write(tmp_path, "child.yaml", "base: base.yaml\ntraining: {epochs: 9}\n")
    child = config_file.load(path, ["model.tau=3", "training.weight_decay=1e-4"])
    assert (child.system, child.training.epochs, child.training.batch_size) == ("child", 9, 4)
    assert (child.model.tau, child.training.weight_decay) == (3.0, 1e-4)


@pytest.mark.parametrize("override, message", [
    ("training.epoch=3", "unknown key 'training.epoch'; did you mean 'training.epochs'?"),
    ("epochs=3", "did you mean 'training.epochs'?"),
    ("model.n_mels=3", "did you mean 'features.n_mels'?"),
    ("training.epochs=abc", "training.epochs: Input should be a valid integer (given 'abc')"),
    ("training.epochs=true", "training.epochs: Input should be a valid integer (given True)"),
    ("training.epochs=2.5", "training.epochs: "),
    ("training.warmup_epochs=101", "training.warmup_epochs=101 exceeds training.epochs=100"),
    ("model.residual_norm=some", "model.residual_norm: Input should be 'all', 'input' or 'none' (given 'some')"),
    ("model.tau=-1", "model.tau: Input should be greater than or equal to 0.1"),
    ("model.rho=5", "model.rho: bcresnet_asc has no such setting, only tau, sub_bands, dropout, residual_norm"),
    ("model.name=cpresnet", "model.name: must be one of bcresnet_asc, bcresnet, cp_resnet, not 'cpres"),
    ("model.front_end=mfcc", "model.front_end: Input should be 'log_mel', 'freqnorm' or 'pcen' (given 'mfcc')"),
    ("training.mixup_alpha=2020-01-01", "training.mixup_alpha: "),
    ("features.n_mels=80", "features.n_mels=80 must be a multiple of 8 model.sub_bands = 32"),
    ("compression.ratio=1", "compression.ratio: Input should be less than 1"),
    ("compression.epochs=0", "compression.epochs: Input should be greater than or equal to 1"),
    ("compression.warmup_epochs=200", "compression.warmup_epochs=200 exceeds compression.epochs=100"),
    ("compression.pruning_epochs=101", "compression.pruning_epochs=101 exceeds compression.epochs=100"),
    ("compression.schedule=twice", "compression.schedule: Input should be 'one_shot', 'iterative' or 'gradual'"),
    ("compression.teachers=[../other/seed0]", "compression.teachers: String should match pattern"),
    ("ensemble=[../../other]", "ensemble: String should match pattern"),
    ("features.window=9999", "features.window=9999 is longer than features.n_fft=4096"),
    ("features.f_max=9000", "features.f_max=9000"),
    ("training=3", "training: must hold keys (epochs, "),
    ("training.epochs", "an override is written section.key=value"),
    ("=3", "an override is written section.key=value"),
    ("system=../up", "system: String should match"),
    ("submission.abbreviation=ElevenChars", "submission.abbreviation: "),
    ("seed=-1", "seed: Input should be greater than or equal to 0 (given -1)"),
    ("seed=18446744073709551616", "seed: Input should be less than 4294967296"),
    ("training.validation_seed=-1", "training.validation_seed: Input should be greater than or equal to 0"),
    ("training.roll_seconds=.inf", "training.roll_seconds: Input should be a finite number (given inf)"),
    ("training.learning_rate=.nan", "training.learning_rate: Input should be a finite number (given nan)"),
    ("training.learning_rate=1e300", "training.learning_rate: Input should be less than or equal to 100"),
    ("training.epochs=" + "9" * 1000, "training.epochs: Input should be less than or equal to 100000 (given an"),
    ("training.epochs=" + "9" * 5000, "not valid YAML: line 1: no valid int: "),
    ("training.epochs=0x" + "f" * 9000, "a number has too many digits"),
    ("training.epochs=" + "[" * 5000, "not valid YAML: line 1: more than 50 levels"),
    ("training.epochs={a: {b: [[[[[[1]]]]]]}}", "training.epochs: Input should be a valid integer (given {'a'"),
    ("features.clip_seconds=0.01", "features.clip_seconds: Input should be greater than or equal to 0.1"),
    ("features.clip_seconds=.inf", "features.clip_seconds: Input should be a finite number"),
    ("features.hop=20000", "features.hop=20000 is longer than features.window=2080"),
    ("features.sample_rate=100", "features.sample_rate: Input should be greater than or equal to 4000"),
    ("features.n_fft=100000000", "features.n_fft: Input should be less than or equal to 65536"),
    ("features.n_mels=1000000000", "features.n_mels: Input should be less than or equal to 1024"),
    ("features.f_min=8000", "features.f_max=8000 must lie between features.f_min=8000 and half of"),
    ("model.tau=0.001", "model.tau: Input should be greater than or equal to 0.1"),
    ("model.tau=.inf", "model.tau: Input should be a finite number"),
    ("model.tau=1000", "model.tau: Input should be less than or equal to 100"),
    ("model.tau=1e9", "model.tau: Input should be less than or equal to 100"),
    ("compression.temperature=1e300", "compression.temperature: Input should be less than or equal to 1000"),
    ("compression.teachers=[vanilla, vanilla]", "compression.teachers: vanilla is named twice"),
    ("ensemble=[a, b, a]", "ensemble: a is named twice"),
    ("data.root=''", "data.root: String should have at least 1 character"),
    ("data.root=\"a\\0b\"", "data.root: String should match pattern"),
    ("data={source: demo, root: x}", "data.root is given, but data.source=demo"),
    ("system=" + "a" * 101, "system: String should have at most 100 characters"),
    ("x" * 100_000 + "=1", "unknown key 'xxx"),
    ("training." + ".".join("a" * 10_000) + "=1", "section.key=value"),
    ("training.epochs: 3", "an override is written section.key=value"),
])
def test_a_wrong_override_is_named(override, message):
    with pytest.raises(InputError) as error:
        config_file.load(SYSTEMS[0].with_name("bcresnet_asc_1.yaml"), [override])
    assert message in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 700


def test_base_may_lie_anywhere(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("bcresnet_asc_2_vanilla", "bcresnet_asc_2_vanilla.yaml"):  # of this project
        write(tmp_path, "base.yaml", f"base: {name}\ntraining: {{epochs: 7}}")
        config = config_file.load(write(tmp_path / "mine", "own.yaml", "base: ../base.yaml\ntraining: {batch_size: 9}"))
        assert (config.model.tau, config.training.epochs, config.training.batch_size) == (2, 7, 9)
    write(tmp_path, "demo.yaml", "training: {epochs: 3}")  # a file of the user comes first
    assert config_file.load(write(tmp_path, "own.yaml", "base: demo.yaml")).data.source != "demo"


@pytest.mark.parametrize("text, message", [
    ("- a", "must hold sections (data, features, model"),
    ("a: [", "not valid YAML"),
    ("base: [demo]", "must be the name of a system of this project, or the path of a file"),
    ("base: other.yaml", "no such configuration"),
    ("base: wrong.yaml", "is based on this file itself"),
    ("trainign: {}", "did you mean 'training"),
    ("model: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ("training: {epochs: 3, epochs: 4}", "not valid YAML: line 1: repeated key 'epochs'"),
    ("training: &a [*a]", "not valid YAML: line 1: references"),
    ("1: 2", "unknown key '1'"),
])
def test_a_wrong_file_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match="wrong.yaml|other.yaml") as error:
        config_file.load(write(tmp_path, "wrong.yaml", text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_too_many_bases_are_named(tmp_path):
    write(tmp_path, "0.yaml", "seed: 7")
    for number in range(1, 1500):
        write(tmp_path, f"{number}.yaml", f"base: {number - 1}.yaml")
    assert config_file.load(tmp_path / "10.yaml").seed == 7
    with pytest.raises(InputError, match="1499.yaml: is based on a chain of more than 10 configurations"):
        config_file.load(tmp_path / "1499.yaml")


@pytest.mark.parametrize("name, override", [
    ("bcresnet_8", "features.n_mels=32"), ("bcresnet_asc_1", "features.clip_seconds=0.15"),
    ("cp_resnet_64", "features.clip_seconds=0.3"), ("cp_resnet_64", "features.n_mels=16")])
def test_an_input_that_is_too_small_for_the_network_is_named(name, override):
    with pytest.raises(InputError, match=r"features.n_mels=\d+ and \d+ frames .* are too few for model.name="):
        config_file.load(SYSTEMS[0].with_name(f"{name}.yaml"), [override])


@pytest.mark.parametrize("kind", config.NETWORKS.values(), ids=lambda kind: kind.name)
def test_the_smallest_input_is_the_smallest_that_the_network_takes(network, kind):
    bins, frames = kind.smallest_input
    settings = {"sub_bands": 1} if "sub_bands" in kind().settings else {}
    smallest = network(kind.name, **settings).to("meta").eval()
    step = 8 if settings else 1  # bins that the sub-bands divide
    assert smallest(torch.empty(1, 1, bins, frames, device="meta")).shape == (1, 10)
    for smaller in ((bins - step, frames), (bins, frames - 1)):
        if min(smaller) > 0:
            with pytest.raises((RuntimeError, ValueError)):
                smallest(torch.empty(1, 1, *smaller, device="meta"))


def test_options_stand_above_overrides_and_take_any_text():
    path = SYSTEMS[0].with_name("bcresnet_asc_1.yaml")
    folder = "C:\\Söunds \U0001f600 #1: [x]"
    loaded = config_file.load(path, ["seed=1", "data.root=other"], {"seed": 2, "data.root": folder})
    assert (loaded.seed, loaded.data.root) == (2, folder)


NUMBERS = st.one_of(st.integers(), st.integers(-10**1000, 10**1000), st.integers(0, 100), st.floats(),
                    st.floats(0, 100), st.sampled_from([0, -1, 1e300, 2**63, 2**64, 1e-300, 100_000]))
VALUES = st.recursive(st.one_of(NUMBERS, st.none(), st.booleans(), st.text(), st.dates(),
                              st.text(min_size=1, max_size=3).map(lambda text: 2000 * text)),
                      lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
KEYS = [f"{section}.{key}" for section in config_file.KEYS for key in config_file.KEYS[section]] + [
    section for section in config_file.KEYS if not config_file.KEYS[section]]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(SYSTEMS), st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=3))
@example(SYSTEMS[0], {"features.n_fft": 65_536, "features.n_mels": 1024})
def test_any_value_of_any_key_is_refused_in_one_line_or_gives_a_network_that_fits(system, options):
    try:
        loaded = config_file.load(system, options=options)
        spec = ModelSpec(loaded.model, loaded.features, tuple("abcdefghij"))
        fit.check_memory(spec, loaded.training, "cpu")
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return
    assert config_file.load(system, options=options) == loaded
    json.dumps(asdict(loaded), allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KEYS), st.text() | st.text("[]{}&*!:,0123456789.e-+\n ", max_size=200))
def test_any_text_of_an_override_is_refused_in_one_line_or_read(key, text):
    try:
        config_file.load(SYSTEMS[0], [f"{key}={text}"])
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000


def test_a_misspelt_file_is_guessed():
    with pytest.raises(InputError, match="did you mean bcresnet_asc_1.yaml?"):
        config_file.load(SYSTEMS[0].with_name("bcresnet_asc1.yaml"))


def test_a_hold_out_model_holds_out_its_own_fraction():
    training = config.TrainingConfig(calibrate=True, pilot_fraction=0.3, validation_fraction=0.1, validation_seed=4)
    pilot = config.Config("x", training=training).hold_out(replace(training, pilot_fraction=0.2, validation_seed=5))
    assert (pilot.system, pilot.training) == ("x_pilot", replace(
        training, validation_fraction=0.2, validation_seed=5, calibrate=False, pilot_fraction=0.0))


def test_fingerprints_tell_values_apart():
    base = config.FeatureConfig()
    assert config.fingerprint(base) == config.fingerprint(config.FeatureConfig(n_mels=256))
    assert config.fingerprint(base) != config.fingerprint(config.FeatureConfig(n_mels=255))


def test_every_key_is_documented_in_the_source():
    source = Path(config.__file__).read_text(encoding="utf-8")
    sections = [f.type for f in fields(config.Config) if is_dataclass(f.type)]
    for section in (config.Config, *sections, *config.NETWORKS.values()):
        for key in fields(section):
            if not is_dataclass(key.type) and key.name != "model":
                line = next(i for i, text in enumerate(source.splitlines()) if text.startswith(f"    {key.name}: "))
                assert source.splitlines()[line + 1].lstrip().startswith('"""'), key.name
