"""Reading of system configurations from YAML, with overrides written ``section.key=value``.

A file may name a ``base``, a system of this project or a file relative to it, and then lists only
the keys that differ. A ``null`` among the settings of the model takes back what the base says.
"""
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from task1a.config import NETWORKS, BCResNetASCConfig, CompressionConfig, Config, TrainingConfig
from task1a.errors import InputError, shown
from task1a.files import YAMLError, parse_yaml, read_yaml

SYSTEMS = Path(__file__).resolve().parent.parent / "system_configs"
"""the systems of this project"""
MAX_BASES = 10
"""Maximum length of a chain of base configurations."""

KEYS: dict[str, list[str]] = {}
"""Keys of each section; empty for single values such as ``seed``."""
for _section in fields(Config):
    _kinds = NETWORKS.values() if _section.name == "model" else [_section.type]
    _names = [key.name for kind in _kinds if is_dataclass(kind) for key in fields(kind)]
    KEYS[_section.name] = list(dict.fromkeys(_names))


def load(path: Path, overrides: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> Config:
    """Read a system configuration and apply overrides.

    Args:
        path: YAML file.
        overrides: ``section.key=value`` each, the value in YAML.
        options: values by ``section.key``, with precedence over the overrides.

    Raises:
        InputError: the file or an override is malformed, has an unknown key (the message suggests
            the most similar one), or a value of the wrong type or out of range.
    """
    path = Path(path)
    tree = {"system": path.stem, **_read_tree(path)}
    given: dict[str, Any] = {}
    keys = []
    for key, value in [*map(_parse_override, overrides), *(options or {}).items()]:
        section, _, name = key.rpartition(".")
        given = _merge(given, {section: {name: value}} if section else {name: value})
        keys.append(key)

    # what the file says of itself is no longer true of a system that the command line changes
    sections = {key.partition(".")[0] for key in keys}
    other_data = _value(tree, "data", "source") == "demo" and _value(given, "data", "source") not in (None, "demo")
    if other_data or sections & {"features", "model", "training", "compression", "ensemble", "device_models"}:
        tree.pop("description", None)
    if sections & {"model", "ensemble", "device_models"} or {"compression.enabled", "compression.teachers"} & set(keys):
        _drop_own_names(tree)
    config = from_tree(_layer(tree, given), str(path), keys)
    name = config.submission.name or _describe(config)
    short = "Ensemble" if config.ensemble else f"{config.model.abbreviation}{config.model.size:g}"
    abbreviation = config.submission.abbreviation or short[:10]
    return replace(config, description=config.description or _describe(config),
                   submission=replace(config.submission, name=name, abbreviation=abbreviation))


def from_tree(tree: Mapping[str, Any], source: str, overridden: Sequence[str] = ()) -> Config:
    """Build a configuration from nested mappings, e.g. the content of ``config.yaml``.

    Args:
        tree: values by section and key.
        source: name of the file in error messages.
        overridden: keys that were given on the command line, which error messages name as their
            source.

    Raises:
        InputError: a key is unknown, or a value is of the wrong type or out of range.
    """
    model = tree.get("model")
    if isinstance(model, dict):
        given = {key: value for key, value in model.items() if value is not None or key not in KEYS["model"]}
        tree = {**tree, "model": {"name": BCResNetASCConfig.name, **given}}
    try:
        # in JSON mode pydantic takes mappings for sections and is strict about types all the same
        return TypeAdapter(Config).validate_json(json.dumps(tree, default=str))
    except ValidationError as error:
        problem, key = _explain(error.errors(include_url=False)[0])
    except (TypeError, ValueError):
        raise InputError(f"{source}: a key is not text, or a number has too many digits") from None
    if any(name == key or name.startswith(f"{key}.") for name in overridden):
        source = "command line"
    raise InputError(f"{source}: {problem}")


def _explain(error: ErrorDetails) -> tuple[str, str]:
    """Translate an error of pydantic; returns the message and the key that it is about."""
    steps = [str(step) for step in error["loc"] if not isinstance(step, int)]
    # of a setting of the model, pydantic also names the architecture that it took
    network = steps.pop(1) if steps[:1] == ["model"] and len(steps) > 1 else None
    key, message, value = ".".join(steps), error["msg"].removeprefix("Value error, "), shown(error["input"])
    match error["type"]:
        case "value_error" if message.startswith(tuple(f"{section}." for section in KEYS)):
            return message, key  # the check of a whole section names its keys
        case "union_tag_invalid":
            given = shown(error["input"]["name"])
            return f"model.name: must be one of {', '.join(NETWORKS)}, not {given}", key
        case "unexpected_keyword_argument" if network and steps[1] in KEYS["model"]:
            return f"{key}: {network} has no such setting, only {', '.join(NETWORKS[network]().settings)}", key
        case "unexpected_keyword_argument":
            return f"unknown key {shown(key)}{_suggest(key)}", key
        case "dataclass_type" | "model_attributes_type":
            return f"{key}: must hold keys ({', '.join(KEYS[key])}), not {value}", key
    return f"{key}: {message} (given {value})", key


def to_yaml(config: Config) -> str:
    """Write out a configuration with all defaults, as YAML that :func:`load` reads back."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def _read_tree(path: Path) -> dict[str, Any]:
    """Read the sections of a configuration and of the configurations that it is based on.

    The names and descriptions of a base are those of another system, and are not inherited.
    """
    layers: list[dict[str, Any]] = []
    seen: list[Path] = []
    while True:
        if not path.is_file():
            names = sorted(file.name for file in path.parent.glob("*.yaml"))
            near = difflib.get_close_matches(path.name, names, n=1)
            raise InputError(f"{path}: no such configuration" + (f"; did you mean {near[0]}?" if near else ""))
        layer = read_yaml(path)
        if not isinstance(layer, dict):
            raise InputError(f"{path}: must hold sections ({', '.join(key for key in KEYS if KEYS[key])})")
        base = layer.pop("base", None)
        if layers:
            layer.pop("description", None)
            _drop_own_names(layer)
        layers.append(layer)
        if base is None:
            break
        if not isinstance(base, str) or not base or not base.isprintable():
            raise InputError(f"{path}: base: must be the name of a system of this project, or the path of a file "
                             f"relative to this one (given {shown(base)})")
        seen.append(path)
        following = path.parent / base
        shipped = SYSTEMS / f"{base.removesuffix('.yaml')}.yaml"
        if not following.is_file() and Path(base).name == base and shipped.is_file():
            following = shipped
        if any(following.exists() and following.samefile(other) for other in seen):
            raise InputError(f"{path}: base: {base} is based on this file itself")
        if len(seen) > MAX_BASES:
            raise InputError(f"{seen[0]}: is based on a chain of more than {MAX_BASES} configurations")
        path = following
    # from the lowest base up, so that each layer overrides those below
    tree: dict[str, Any] = {}
    for layer in reversed(layers):
        tree = _layer(tree, layer)
    return tree


def _layer(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Lay settings over those of a base, and let the base's settings follow a new architecture or
    length."""
    merged = _merge(below, above)
    network = _value(above, "model", "name")
    if isinstance(network, str) and network in NETWORKS and network != _value(below, "model", "name"):
        known = {key.name for key in fields(NETWORKS[network])} | set(above["model"])
        # tau is no setting of CP-ResNet, so it is not inherited; it stays an error where it was given
        merged["model"] = {key: value for key, value in merged["model"].items() if key in known}
    # A warm-up or a pruning schedule of the base that is longer than the new training is cut.
    for section, defaults in (("training", TrainingConfig), ("compression", CompressionConfig)):
        epochs = _value(above, section, "epochs")
        if isinstance(epochs, bool) or not isinstance(epochs, int):
            continue
        warmup = merged[section].get("warmup_epochs", defaults.warmup_epochs)
        if "warmup_epochs" not in above[section] and isinstance(warmup, int | float) and 0 < epochs < warmup:
            merged[section]["warmup_epochs"] = epochs / 2
        spread = merged[section].get("pruning_epochs")
        if "pruning_epochs" not in above[section] and isinstance(spread, int) and 0 < epochs < spread:
            merged[section]["pruning_epochs"] = None
    return merged


def _drop_own_names(tree: dict[str, Any]) -> None:
    """Remove what names another system."""
    if isinstance(tree.get("submission"), dict):
        for name in ("name", "abbreviation"):
            tree["submission"].pop(name, None)


def _value(tree: Mapping[str, Any], section: str, key: str) -> Any:
    return tree[section].get(key) if isinstance(tree.get(section), dict) else None


def _describe(config: Config) -> str:
    """Name a system by its network, its normalization and its compression."""
    if config.ensemble:
        return f"Ensemble of {', '.join(config.ensemble)}"
    model, settings, parts = config.model, config.model.settings, []
    if model.front_end != "log_mel":
        parts.append({"freqnorm": "Global FreqNorm", "pcen": "PCEN"}[model.front_end])
    if settings.get("residual_norm", "none") != "none":
        norm = "Residual Normalization"
        if settings["residual_norm_form"] == "relaxed":
            norm = "relaxed frequency-wise instance normalization"
        elif settings["residual_norm_shortcut"] == 0 and not settings["residual_norm_learned"]:
            norm = "frequency-wise instance normalization"
        parts.append(norm + (" at the input" if settings["residual_norm"] == "input" else ""))
    text = f"{model.title}-{model.size:g}" + (f" with {' and '.join(parts)}" if parts else "")
    if config.compression.enabled:
        text += ", compressed with knowledge distillation" if config.compression.teachers else ", compressed"
    return text + (", fine-tuned to each device" if config.device_models else "")


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if nested else value
    return merged


def _parse_override(override: str) -> tuple[str, Any]:
    """Return key and value of an override."""
    key, equals, text = override.partition("=")
    if not equals or not all(key.split(".")) or key.count(".") > 1:
        raise InputError(f"{shown(override)}: an override is written section.key=value, e.g. training.epochs=60")
    try:
        return key, parse_yaml(text)
    except YAMLError as error:
        raise InputError(f"{shown(override)}: {error}") from None


def _suggest(name: str) -> str:
    """Return the most similar key: one of the same name in another section, else one of similar
    spelling."""
    name = name[:200]
    names = []
    for section, keys in KEYS.items():
        names += [f"{section}.{key}" for key in keys] or [section]
    last = name.rpartition(".")[2]
    # the right key in the wrong section is a likelier mistake than a misspelt one
    similar = [known for known in names if known.rpartition(".")[2] == last]
    for spelling in (name, last):
        similar = similar or difflib.get_close_matches(spelling, names, n=1, cutoff=0.5)
    return f"; did you mean {similar[0]!r}?" if similar else ""
