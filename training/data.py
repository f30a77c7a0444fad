"""Samples as a pure function of (seed, number), in batches of one crop shape each, from one or several sources."""

from __future__ import annotations

import bisect
import dataclasses
import signal
from dataclasses import dataclass
from functools import lru_cache
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
)

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mf_ros.errors import ConfigError, MfRosError
from mf_training.config import DataConfig, TrainConfig
from mf_training.samples import SampleConfig

if TYPE_CHECKING:
    from mf_training.scenes import Scene

Shape = Tuple[int, int]
Batch = Dict[str, Tensor]

# Independent random streams, so that no draw of one kind repeats one of another.
_ITEM, _ORDER, _SHAPE, _HELDOUT = range(1, 5)


class DataError(MfRosError):
    """Training data is missing or cannot be read."""


class Source(Protocol):
    """Where scenes come from; it is pickled to the processes that prepare samples."""

    def get(self, index: int) -> Scene:
        """The scene of this number: a seed, or a place in a list of frames."""


@dataclass(frozen=True)
class Part:
    """One source with the numbers that are trained on and those held out.

    Attributes:
        name: for messages and logs.
        source: where its scenes come from.
        first, number: the numbers trained on; ``number`` 0 never repeats one.
        weight: share among the samples.
        heldout: numbers that are only evaluated, and the source they are of.
    """

    name: str
    source: Source
    first: int
    number: int
    weight: float
    heldout: Tuple[int, ...] = ()
    heldout_source: Optional[Source] = None


class SampleMaker(Protocol):
    """Turns a scene into one training sample."""

    def __call__(self, scene: Scene, rng: np.random.Generator, shape: Shape, config: SampleConfig) -> Any: ...


Collate = Callable[[Sequence[Any]], Batch]


@dataclass(frozen=True)
class Unreadable:
    """Why a sample could not be made; an exception would lose its one sentence between processes."""

    message: str


def open_parts(config: DataConfig) -> List[Part]:
    """The sources that the settings mix.

    Raises:
        DataError: a source holds nothing.
    """
    parts = []
    if config.mix.scenes > 0:
        parts.append(_procedural(config))
    if config.mix.frames > 0:
        parts.append(_real(config))
    if config.mix.dataset > 0:
        parts.append(_recorded(config))
    return parts


def _procedural(config: DataConfig) -> Part:
    from mf_training.scenes import SceneStore

    scenes = config.scenes
    try:
        torch.empty(0, device=scenes.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise ConfigError(f"data.scenes.device is {scenes.device!r}, which cannot be used here: {reason}") from error
    store = SceneStore(scenes.cache or None, size=scenes.size, scans=scenes.scans, device=scenes.device)
    heldout = range(scenes.heldout_first_seed, scenes.heldout_first_seed + scenes.heldout)
    return Part("scenes", store, scenes.first_seed, scenes.number, config.mix.scenes, tuple(heldout))


def _real(config: DataConfig) -> Part:
    from mf_training.frames import FrameSource

    frames = FrameSource(config.frames.folder, config.frames.part)
    held = None
    if config.frames.heldout_folder:
        held = FrameSource(config.frames.heldout_folder, config.frames.heldout_part)
    numbers = tuple(range(len(held))) if held is not None else ()
    return Part("frames", frames, 0, len(frames), config.mix.frames, numbers, held)


def _recorded(config: DataConfig) -> Part:
    from mf_training.recorded import open_split

    source = config.dataset
    rows = open_split(source, "train")
    held = open_split(source, "val", source.heldout) if source.heldout else None
    numbers = tuple(range(len(held))) if held is not None else ()
    return Part("dataset", rows, 0, len(rows), config.mix.dataset, numbers, held)


class TrainingSamples(Dataset[Any]):
    """Sample i of an endless sequence; the same for the same seed, whoever asks and in whatever order.

    Args:
        parts: the sources.
        config: the run's settings; of them the seed decides, and what ``make_sample`` reads.
        make_sample: turns a scene into a sample.
    """

    def __init__(self, parts: Sequence[Part], config: TrainConfig, make_sample: SampleMaker) -> None:
        if not parts:
            raise DataError("There is nothing to train on: data.mix selects no source.")
        self._parts = list(parts)
        total = sum(part.weight for part in parts)
        self._bounds = list(np.cumsum([part.weight / total for part in parts])[:-1])
        self._config = config
        self._make_sample = make_sample

    def __getitem__(self, item: Tuple[int, Shape]) -> Any:
        index, shape = item
        part, number = self.where(index)
        rng = np.random.default_rng([_ITEM, self._config.seed, index])
        return _made(part.name, part.source, number, rng, shape, self._config, self._make_sample)

    def where(self, index: int) -> Tuple[Part, int]:
        """The source of a sample and the number of its scene there."""
        draw = np.random.default_rng([_ORDER, self._config.seed, index]).random()
        part = self._parts[bisect.bisect(self._bounds, draw)]
        if part.number == 0:
            return part, part.first + index
        epoch, place = divmod(index, part.number)
        return part, part.first + int(_order(self._config.seed, epoch, part.number)[place])

    def describe(self, first: int, last: int) -> str:
        """Samples ``first`` to ``last`` in words, for messages."""
        named = [(part.name, number) for part, number in map(self.where, range(first, last + 1))]
        text = ", ".join(f"{name} {number}" for name, number in named[:16])
        return f"samples {first} to {last} ({text}{', ...' if len(named) > 16 else ''})"


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, number: int) -> np.ndarray:
    """The order in which an epoch shows its scenes."""
    return np.random.default_rng([_ORDER, seed, epoch, number]).permutation(number)


class _HeldOutSamples(Dataset[Any]):
    """The samples of one source that are only evaluated: the same in every run, whatever its seed."""

    def __init__(self, part: Part, config: TrainConfig, make_sample: SampleMaker) -> None:
        # Pictures as they are: what is learned from others is for them.
        samples = dataclasses.replace(config.samples, restyled=0.0)
        self._part, self._make_sample = part, make_sample
        self._config = dataclasses.replace(config, samples=samples)

    def __len__(self) -> int:
        return len(self._part.heldout)

    def __getitem__(self, index: int) -> Any:
        part, number = self._part, self._part.heldout[index]
        rng = np.random.default_rng([_HELDOUT, number])
        source = part.heldout_source or part.source
        name = f"held-out {part.name}"
        return _made(name, source, number, rng, self._config.data.shapes[0], self._config, self._make_sample)


def _made(
    name: str,
    source: Source,
    number: int,
    rng: np.random.Generator,
    shape: Shape,
    config: TrainConfig,
    make_sample: SampleMaker,
) -> Any:
    try:
        scene = source.get(number)
        small = scene.depth.shape[0] < shape[0] or scene.depth.shape[1] < shape[1]
        # Recorded frames have the size they have, and are filled up; scenes can be rendered larger.
        if small and scene.depth.any():
            size = "{} x {}".format(*scene.depth.shape)
            raise DataError(f"it is {size}, smaller than the crop of {shape[0]} x {shape[1]} (data.shapes).")
        return make_sample(scene, rng, shape, config.samples)
    except (MfRosError, OSError, ValueError, EOFError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        return Unreadable(f"No sample can be made of number {number} of {name}: {text}")


class _BatchNumbers:
    """The (sample, crop shape) pairs of one process's batches, from batch ``first`` on, without end."""

    def __init__(self, config: TrainConfig, first: int, rank: int, world: int) -> None:
        self._config, self._first, self._rank, self._world = config, first, rank, world

    def __iter__(self) -> Iterator[List[Tuple[int, Shape]]]:
        number = self._first
        while True:
            start = (number * self._world + self._rank) * self._config.batch
            shape = shape_of(self._config, number)
            yield [(index, shape) for index in range(start, start + self._config.batch)]
            number += 1


def shape_of(config: TrainConfig, batch: int) -> Shape:
    """Crop shape of a batch; all processes draw the same."""
    shapes = config.data.shapes
    return shapes[int(np.random.default_rng([_SHAPE, config.seed, batch]).integers(len(shapes)))]


@dataclass(frozen=True)
class _CheckedCollate:
    collate: Collate

    def __call__(self, samples: Sequence[Any]) -> Union[Batch, Unreadable]:
        for sample in samples:
            if isinstance(sample, Unreadable):
                return sample
        return self.collate(samples)


def _start_worker(_: int) -> None:
    # One thread each: the processes share the cores already. Ctrl-C is for the training process, which saves first.
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def training_batches(
    samples: TrainingSamples, collate: Collate, config: TrainConfig, *, first: int, rank: int, world: int, pin: bool
) -> Iterator[Batch]:
    """One process's batches without end, prepared ahead by ``data.workers`` processes.

    Args:
        samples: what is trained on.
        collate: makes one batch of a list of samples.
        config: the run's settings.
        first: number of the first batch, which is how a resumed run goes on where it stopped.
        rank, world: this process and how many there are; they take turns in the sequence of samples.
        pin: hold batches in memory that a GPU can copy from while it computes.

    Raises:
        DataError: a sample cannot be made.
    """
    numbers = _BatchNumbers(config, first, rank, world)
    for batch in _loader(samples, numbers, collate, config, pin):
        yield _readable(batch)


def heldout_batches(
    parts: Sequence[Part], make_sample: SampleMaker, collate: Collate, config: TrainConfig, *, rank: int, world: int
) -> Dict[str, List[Batch]]:
    """Every held-out batch of this process, by source; sources without held-out data are left out.

    Raises:
        DataError: a sample cannot be made.
    """
    found: Dict[str, List[Batch]] = {}
    for part in parts:
        if not part.heldout:
            continue
        samples = _HeldOutSamples(part, config, make_sample)
        numbers = range(rank, len(samples), world)
        batches = [list(numbers[i : i + config.batch]) for i in range(0, len(numbers), config.batch)]
        loader = _loader(samples, batches, collate, config, pin=False)
        found[part.name] = [_readable(batch) for batch in loader]
    return found


def _loader(samples: Dataset[Any], numbers: Any, collate: Collate, config: TrainConfig, pin: bool) -> DataLoader[Any]:
    workers = config.data.workers
    ahead: Mapping[str, Any] = {"multiprocessing_context": "spawn", "prefetch_factor": 4} if workers else {}
    return DataLoader(
        samples,
        batch_sampler=numbers,
        collate_fn=_CheckedCollate(collate),
        num_workers=workers,
        worker_init_fn=_start_worker,
        pin_memory=pin,
        # Its own generator: a loader that starts would otherwise move the one that the step draws from.
        generator=torch.Generator(),
        **ahead,
    )


def _readable(batch: Union[Batch, Unreadable]) -> Batch:
    if isinstance(batch, Unreadable):
        raise DataError(batch.message)
    return batch
