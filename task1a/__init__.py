"""BC-ResNet-ASC with Residual Normalization: from recordings to a small model and its predictions.

``task1a.load(RUN).predict("recording.wav")`` gives the probabilities of the scenes of a recording, and
``task1a.train(SYSTEM, data_root=DIR)`` runs the chain that makes such a run.
"""
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from task1a.pipeline.run import Run
    from task1a.predict.recordings import Predictor

__version__ = "0.1.0"


def load(path: str | Path, device: str = "auto") -> "Predictor":
    """Load a stored model, to predict recordings with it.

    Args:
        path: run folder or model file.
        device: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        InputError: the run is not finished or has several models, or the file is not a usable model.
    """
    from task1a.pipeline.run import model_of
    from task1a.predict.recordings import Predictor

    return Predictor(model_of(Path(path)), device)


def train(system: str | Path = "demo", settings: Mapping[str, object] | None = None, **options: object) -> "Run":
    """Run the chain as the command ``task1a run`` does, and return the run.

    Args:
        system: name of a system of this project, or the file of a configuration.
        settings: values of the configuration by ``section.key``, such as ``{"training.epochs": 60}``.
        **options: options of the command, with ``_`` for ``-``: ``data_root="DIR"``, ``until="evaluate"``,
            ``force=True``.

    Returns:
        The run; ``run.folder`` is its folder, which :func:`load` takes, and ``run.read("evaluation")`` its scores.

    Raises:
        InputError: the arguments or the configuration are wrong, or a stage could not do its work.
        FallsShort: the model is over the size limit, or the submission is invalid.
    """
    from task1a.pipeline import runner
    from task1a.pipeline.plan import parse_arguments

    arguments = ["--system", str(system)]
    for name, value in options.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(option)
        elif value is not False:
            arguments += [option, str(value)]
    arguments += [f"{key}={value}" for key, value in (settings or {}).items()]
    plan = parse_arguments(arguments)
    runner.run_plan(plan)
    return plan.run
