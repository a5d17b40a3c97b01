"""What the runs of one command share: data sets, feature caches, compute device and log, each opened once.

An ensemble, its members and its hold-out models are runs of their own on the same recordings. Their tables are parsed,
their recordings checked and their features opened once for all of them.
"""
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from task1a.config import Config, FeatureConfig
from task1a.errors import InputError
from task1a.machine import device_of
from task1a.pipeline.run import Run

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from task1a.data.check import DataReport
    from task1a.data.dataset import Dataset
    from task1a.features.cache import FeatureCache
    from task1a.predict.clips import ReadClips


@dataclass
class Workspace:
    """Everything that the runs of a command share."""

    device: str = "auto"
    """compute device: ``auto``, ``cpu`` or ``cuda``"""
    force: bool = False
    """whether stages run even if they are up to date"""
    log: Callable[[str], None] = print
    """receives the messages of the stages"""
    download: dict[str, bool] | None = None
    """settings of :func:`task1a.data.download.download`, if the sets of the challenge may be downloaded"""
    dry_run: bool = False
    """whether nothing may be made, not even the demo set"""
    _datasets: "dict[tuple[object, ...], Dataset]" = field(default_factory=dict)
    _digests: "dict[Dataset, str]" = field(default_factory=dict)
    _reports: "dict[tuple[object, ...], DataReport]" = field(default_factory=dict)
    _caches: "dict[tuple[Path, FeatureConfig, str], FeatureCache]" = field(default_factory=dict)
    _built: "dict[tuple[Path, FeatureConfig, str], FeatureCache]" = field(default_factory=dict)
    _complete: set[tuple[Path, FeatureConfig, str]] = field(default_factory=set)

    @property
    def torch_device(self) -> "torch.device":
        """The compute device."""
        import torch

        return torch.device(device_of(self.device))

    def dataset(self, config: Config) -> "Dataset":
        """Return the recordings of a configuration.

        On first use, the demo set is synthesised, and the sets of the challenge are downloaded if that was asked for.

        Raises:
            InputError: the configuration names no data set.
        """
        from task1a.data.dataset import Dataset

        data = config.data
        key = data.source, data.root, data.evaluation_root, data.cache_dir, data.demo_clip_seconds
        if key in self._datasets:
            return self._datasets[key]
        if data.source == "demo":
            from task1a.data import demo

            root, size = Path(data.cache_dir) / "demo", demo.DemoSize(clip_seconds=data.demo_clip_seconds)
            if self.dry_run and not demo.is_current(root, size):
                raise InputError("the demo set is not there")
            dataset = Dataset(*demo.build(root, size, data.workers))
        elif data.root is None:
            raise InputError("no data set: give its folder with --data-root DIR (and --eval-root DIR)")
        else:
            evaluation = Path(data.evaluation_root) if data.evaluation_root else None
            if self.download is not None:
                from task1a.data import download

                download.download(download.challenge_sets(Path(data.root), evaluation), **self.download)
            dataset = Dataset(Path(data.root), evaluation)
        self._datasets[key] = dataset
        return dataset

    def content(self, config: Config) -> str:
        """Return a digest of the tables of the data set and of the sizes and times of its recordings."""
        from task1a.data.check import content_digest

        dataset = self.dataset(config)
        if dataset not in self._digests:
            self._digests[dataset] = content_digest(dataset)
        return self._digests[dataset]

    def check_recordings(self, config: Config) -> "DataReport":
        """Check the recordings and their tables, and return what was found; see :mod:`task1a.data.check`."""
        from task1a.data.check import check

        dataset, features = self.dataset(config), config.features
        settings = config.data.skip_damaged, features.sample_rate, features.clip_seconds
        key = dataset, *settings
        if key not in self._reports:
            self._reports[key] = check(dataset, *settings)
        return self._reports[key]

    def build_cache(self, config: Config, name: str) -> "FeatureCache":
        """Bring the feature cache of the ``development`` or the ``evaluation`` set up to date, and open it."""
        from task1a.features.build import build

        dataset, data = self.dataset(config), config.data
        key = self._cache_key(config, name)
        # one that was only opened does not know its damaged clips
        if key not in self._built:
            self._built[key] = build(dataset.roots[name], dataset.filenames(name), config.features,
                                     Path(data.cache_dir), data.workers, data.skip_damaged)
            self._caches[key] = self._built[key]
            self._complete.add(key)
        return self._built[key]

    def cache(self, config: Config, name: str) -> "FeatureCache":
        """Return the feature cache of the ``development`` or the ``evaluation`` set."""
        from task1a.features.cache import FeatureCache

        key = self._cache_key(config, name)
        if key not in self._caches:
            self._caches[key] = FeatureCache.open(self.dataset(config).roots[name], config.features,
                                                  Path(config.data.cache_dir))
        return self._caches[key]

    def caches_are_complete(self, config: Config) -> bool:
        """Whether the feature caches hold the features of all clips, as a build leaves them."""
        from task1a.features.build import is_complete

        for name, root in self.dataset(config).roots.items():
            key = self._cache_key(config, name)
            if key not in self._complete:
                if not is_complete(root, config.features, Path(config.data.cache_dir)):
                    return False
                self._complete.add(key)
        return True

    def clips(self, run: Run, split: str) -> "pd.DataFrame":
        """Return the clips of a split, without the damaged ones that were excluded."""
        dataset = self.dataset(run.config)
        return without(dataset.split(split), run.read("features")["damaged"][dataset.splits[split]])

    def reader(self, run: Run, split: str) -> "ReadClips":
        """Return a function that reads the features of a split's clips by index."""
        cache = self.cache(run.config, self.dataset(run.config).splits[split])
        rows = cache.rows(self.clips(run, split).filename)
        return lambda indices: cache.read(rows[indices])

    def _cache_key(self, config: Config, name: str) -> tuple[Path, FeatureConfig, str]:
        return self.dataset(config).roots[name], config.features, config.data.cache_dir


def without(clips: "pd.DataFrame", damaged: Iterable[str]) -> "pd.DataFrame":
    """Return the clips that are not damaged."""
    return clips[~clips.filename.isin(set(damaged))].reset_index(drop=True)
