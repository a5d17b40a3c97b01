"""Check of a 2025 inference package, none of whose code is executed."""
import ast
import io
import re
import symtable
import tokenize
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from submission.rules import FOLDER, INFERENCE_SUFFIX, INSTALLERS, Rules
from submission.validation.archive import Member, opened
from submission.validation.findings import Finding, with_level
from task1a.data.recording import open_recording
from task1a.errors import InputError, counted, shown

FUNCTIONS = {
    "load_model": ("model_file_path",),
    "load_inputs": ("file_paths", "device_ids", "model"),
    "get_model_for_device": ("model", "device_id"),
    "predict": ("file_paths", "device_ids", "model_file_path"),
}
"""functions that the organisers call, and their first arguments"""

# sizes: of everything, which only needs listing; of all modules and of one, whose syntax takes up
# to 700 times its size to check; of the file that installs, which takes more; and of a model
_MAX_BYTES, _MAX_PYTHON_BYTES, _MAX_MODULE_BYTES, _MAX_SETUP_BYTES = 1 << 31, 1 << 21, 1 << 18, 1 << 15
_MAX_MODEL_BYTES = 1 << 23
# of patterns in the folders of a package
_MAX_LOOKUPS = 1000
# endings of files that are no models
_NO_MODELS = ("", ".cfg", ".csv", ".ini", ".json", ".md", ".py", ".pyc", ".toml", ".txt", ".wav", ".yaml",
              ".yml")
_PACKAGE = re.compile(rf"[A-Za-z0-9-]+(_[A-Za-z0-9-]+)+_{FOLDER}")
_MODULE = re.compile(rf".*{FOLDER}.*_[0-9]+\.py", re.IGNORECASE)


def check(folder: Path, rules: Rules) -> list[Finding]:
    """Check an inference package without executing any of its code.

    Args:
        folder: folder of the package, or the folder that contains it.
        rules: the edition.
    """
    root = Path(folder)
    inside = sorted(path for path in root.glob(f"*{INFERENCE_SUFFIX}") if path.is_dir())
    if inside and not root.name.endswith(INFERENCE_SUFFIX):
        root = inside[0]
    # everything is listed, and counted, before a file is opened
    with opened(root, _MAX_BYTES, without=[root / ".git"]) as (members, findings):
        return findings or list(check_package(root, members, rules))


def check_package(root: Path, members: Mapping[str, Member], rules: Rules) -> Iterator[Finding]:
    """Check the files of an inference package, of which nothing is executed."""
    if not any((root / name).is_file() for name in INSTALLERS):
        yield Finding("error", root.name, "", "no pyproject.toml or setup.py", "a package that pip can install")
    package, findings = find_package(root)
    yield from findings
    if package is None:
        return
    modules = sorted(package.glob(f"{package.name}_*.py"))
    names = f"{package.name}_1.py to {package.name}_{rules.systems}.py"
    if not modules:
        yield Finding("error", package.name, "", "no module of a system", names)
    inside, sources, python_bytes, has_models = {}, [], 0, False
    for name, member in members.items():
        if not name.startswith(f"{package.name}/"):
            continue
        inside[name] = member
        if name.endswith(".py"):
            sources.append(member)
            python_bytes += member.size
        elif member.size and PurePosixPath(name).suffix not in _NO_MODELS:
            has_models = True
    if not has_models:
        yield Finding("error", package.name, "", "no model", "the models of every system, in ckpts/<label>")
    systems = []
    for path in modules:
        if path.is_dir():
            yield Finding("error", path.name, "", "a folder", "a module")
        elif not re.fullmatch(rf"{re.escape(package.name)}_[1-{rules.systems}]\.py", path.name):
            yield Finding("error", path.name, "", "a module with this number", names)
        elif has_models:
            systems.append(path.stem)
    if python_bytes > _MAX_PYTHON_BYTES:
        yield Finding("error", package.name, "", f"{python_bytes:,} bytes of Python",
                      f"at most {_MAX_PYTHON_BYTES:,}")
        return
    problems: list[Finding] = []
    for member in sources:
        problems += check_module(member, package / member.base in modules)
    yield from problems
    # Models are counted with torch, which takes seconds and memory of its own: not after modules
    # that may have been made to take as much.
    for name in systems if not with_level(problems, "error") else ():
        yield from check_models(package / "ckpts" / name, rules)
    yield from check_installation(root, package, members, inside, rules)
    try:
        with open_recording(package / "resources" / "dummy.wav"):
            pass
    except (InputError, OSError) as error:
        yield Finding("error", "resources/dummy.wav", "", getattr(error, "strerror", None) or str(error),
                      "a recording, with which the organisers' script measures the models")


def find_package(root: Path) -> tuple[Path | None, list[Finding]]:
    """Return the folder of the modules, or None and what is found in its place."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    packages = [path for path in folders if _PACKAGE.fullmatch(path.name)]
    if len(packages) == 1:
        return packages[0], []
    found, expected = f"{len(packages)} folders named Lastname_Institute_{FOLDER}", "one"
    for path in () if packages else reversed(folders):
        if any(_MODULE.fullmatch(file.name) for file in path.glob("*.py")):
            found = f"the folder {shown(path.name)}"
            expected = (f"Lastname_Institute_{FOLDER} of letters and digits, with modules of this name and "
                        "a number")
    return None, [Finding("error", root.name, "", found, expected)]


def check_installation(root: Path, package: Path, members: Mapping[str, Member],
                       inside: Mapping[str, Member], rules: Rules) -> Iterator[Finding]:
    """Warn about a name that no label has, and about files that pip would not install."""
    setup = read_setup(root, members)
    labels = [f"{name}_1" for name in (package.name, setup.name) if name.replace("-", "_") == package.name]
    if setup.name and not any(map(rules.label_pattern.fullmatch, labels)):
        yield Finding("warning", package.name, "", "an institute with _, which no label has",
                      f"Lastname_Institute_{FOLDER}; if the _ stands for a hyphen, write the hyphen in the "
                      "name that pyproject.toml or setup.py states")
    excluded = not_installed(root, package, inside, setup)
    if excluded:
        more = f" and {len(excluded) - 5:,} more" if len(excluded) > 5 else ""
        yield Finding("warning", package.name, "",
                      f"files that installing leaves out: {', '.join(excluded[:5])}{more}",
                      f"package_data for {package.name} that includes them, and an __init__.py next to every "
                      "module; pip install -e needs neither")


@dataclass(frozen=True)
class Setup:
    """What pip would read of a package, as far as it is written out; nothing of it is executed."""

    name: str = ""
    packages: Sequence[str] | None = None
    """packages that are installed; None if that is not written out"""
    data: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """patterns of the other files, by package"""


def read_setup(root: Path, members: Mapping[str, Member]) -> Setup:
    """Read pyproject.toml, or else setup.py, unless they are damaged or too large."""
    from setuptools import find_namespace_packages, find_packages
    from setuptools.compat.py310 import tomllib

    texts = {name: members[name].read(_MAX_SETUP_BYTES)[0] or b"" for name in INSTALLERS if name in members}
    try:
        if "pyproject.toml" in texts:
            project = tomllib.loads(texts["pyproject.toml"].decode("utf-8"))
            tool = project.get("tool", {}).get("setuptools", {})
            name, packages = project.get("project", {}).get("name", ""), tool.get("packages")
            if isinstance(packages, Mapping):
                find = packages.get("find", {})
                packages = (find_namespace_packages if find.get("namespaces", True) else find_packages)(
                    str(root), exclude=find.get("exclude", ()), include=find.get("include", ("*",)))
            if packages is not None or "setup.py" not in texts:
                return Setup(name, packages, tool.get("package-data", {}))
        given = {}
        for node in ast.walk(ast.parse(texts["setup.py"])):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) == "setup":
                given = {keyword.arg: keyword.value for keyword in node.keywords}
        packages = given.get("packages")
        if isinstance(packages, ast.Call) and not packages.args and not packages.keywords:
            finder = getattr(packages.func, "attr", getattr(packages.func, "id", ""))
            packages = {"find_packages": find_packages,
                        "find_namespace_packages": find_namespace_packages}[finder](str(root))
        elif packages is not None:
            packages = ast.literal_eval(packages)
        name = ast.literal_eval(given["name"]) if "name" in given else ""
        data = ast.literal_eval(given["package_data"]) if "package_data" in given else {}
        return Setup(str(name), packages, {key: list(patterns) for key, patterns in data.items()})
    except (OSError, SyntaxError, ValueError, TypeError, AttributeError, KeyError, RecursionError, MemoryError):
        return Setup()


def not_installed(root: Path, package: Path, inside: Mapping[str, Member], setup: Setup) -> list[str]:
    """Return the files of a package that are missing once it is installed.

    There are none if what is installed is not written out.
    """
    if setup.packages is None or (root / "MANIFEST.in").is_file():
        return []
    wanted = set()
    for name in setup.packages:
        for pattern in ("*.py", *setup.data.get(name, ()), *setup.data.get("", ()), *setup.data.get("*", ())):
            wanted.add((name, pattern))
            if pattern.count("**") > 1 or len(wanted) > _MAX_LOOKUPS:
                return []
    # a pattern counts from the folder of its package, as in package_data
    installed = set()
    for name, pattern in wanted:
        with suppress(ValueError, NotImplementedError):
            for path in root.joinpath(*name.split(".")).glob(pattern):
                installed.add(path.relative_to(root).as_posix())
    # the organisers' script fetches the list of the test split where it is missing
    installed.add(f"{package.name}/resources/test.csv")
    missing = []
    for name in sorted(inside):
        if name not in installed and not name.endswith(".pyc"):
            missing.append(name.removeprefix(f"{package.name}/"))
    return missing


def check_module(member: Member, is_system: bool) -> Iterator[Finding]:
    """Check that a module can be imported, and that one of a system has the functions that the
    organisers call.

    Its table of symbols is made without building a syntax tree in Python, or any code.
    """
    data, findings = member.read(_MAX_MODULE_BYTES)
    yield from findings
    if data is None:
        return
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        if encoding == "punycode":  # which takes seconds to decode
            raise LookupError
        text = data.decode(encoding)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = symtable.symtable(text, member.base, "exec")
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", None)
        where = f"line {line}" if line else ""
        found = f"text that is not {error.encoding}" if isinstance(error, UnicodeDecodeError) else "no valid Python"
        yield Finding("error", member.base, where, found, "a module that can be imported")
        return
    symbols = {symbol.get_name(): symbol for symbol in table.get_symbols()}
    for name, arguments in FUNCTIONS.items() if is_system else ():
        symbol = symbols.get(name)
        if symbol is None or not (symbol.is_assigned() or symbol.is_imported()):
            yield Finding("error", member.base, name, "no such function", "one that the organisers can call")
        elif symbol.is_namespace() and symbol.get_namespaces()[-1].get_type() == "function":
            function: Any = symbol.get_namespaces()[-1]
            defined = function.get_parameters()
            if defined[:len(arguments)] != arguments:
                yield Finding("error", member.base, name, f"the arguments {shown(', '.join(defined))}",
                              f"{', '.join(arguments)}, in this order")


def check_models(folder: Path, rules: Rules) -> Iterator[Finding]:
    """Check number, size and labels of the model files of a system."""
    where = f"ckpts/{folder.name}"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        yield Finding("warning", where, "", "no model files of this project", "*.safetensors, whose size is "
                      "counted here; count other files with python -m task1a.complexity")
        return
    if len(files) > 1 + len(rules.devices):
        yield Finding("error", where, "", counted(len(files), "model"),
                      f"at most one for each of the {len(rules.devices)} devices, and general.safetensors")
        return
    large = [path for path in files if path.stat().st_size > _MAX_MODEL_BYTES]
    for path in large:
        yield Finding("error", f"{where}/{path.name}", "", f"{path.stat().st_size:,} bytes",
                      f"at most {_MAX_MODEL_BYTES:,}")
    if large:
        return
    # import torch, which takes seconds
    from submission.inference2025.interface import GENERAL
    from submission.inference2025.package import sizes
    from task1a import model_file

    if GENERAL not in [path.stem for path in files]:
        yield Finding("error", where, "", f"no {GENERAL}.safetensors", "a model for the clips of unknown devices")
    other_labels = set()
    for path in files:
        name = f"{where}/{path.name}"
        try:
            size = sizes(path)  # which checks the file
            spec = model_file.stated_spec(path)
            if spec is None:
                raise InputError("of another program")
        except InputError as error:
            reason = str(error).removeprefix(f"{path}: ")
            yield Finding("error", name, "", shown(reason), "a model file of this project")
            continue
        for limit in rules.limits:
            value = size["bytes"] if limit.unit == "bytes" else size["macs"]
            if value > limit.max:
                yield Finding("error", name, "", f"{value:,} {limit.unit}", f"at most {limit.max:,} {limit.unit}")
        if spec.labels != rules.labels and spec.labels not in other_labels:
            other_labels.add(spec.labels)
            yield Finding("not_submittable", name, "", f"the labels {shown(' '.join(spec.labels))}",
                          f"those of {rules.name}: {' '.join(rules.labels)}")
        if spec.features.clip_seconds != rules.clip_seconds:
            yield Finding("error", name, "", f"clips of {spec.features.clip_seconds:g} s", f"{rules.clip_seconds:g} s")
