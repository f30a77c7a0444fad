"""Setting a training up from its settings: accelerator, network, data, and where it goes on."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed

from mf_ros.errors import ConfigError, require_package
from mf_ros.interrupt import StopOnSignal
from mf_training.checkpoints import Checkpoint, CheckpointError, latest_checkpoint, load_into
from mf_training.config import TrainConfig
from mf_training.data import Batch, Part, TrainingSamples, heldout_batches, training_batches
from mf_training.loop import Reason, Status, Tally, Trainer
from mf_training.lora import LoraConfig
from mf_training.networks import make_network
from mf_training.optimiser_state import load_optimisers
from mf_training.recipe import DEFAULT_KIND, Recipe, kind_of
from mf_training.schedule import Average, make_optimisers
from mf_training.settings import differences, dump_train_config, first_difference, train_config_to_mapping
from mf_training.sharding import require_processes
from mf_training.sources import sources_of

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run has come to, this part and those before it.

    Attributes:
        reason: why it stopped.
        out: folder of its checkpoints.
        tally: steps, samples, seconds and operations in all, and the best evaluation.
        weights: how many the network has.
        trained: how many of them are trained.
    """

    reason: Reason
    out: str
    tally: Tally
    weights: int
    trained: int


def default_recipe() -> Recipe:
    """This package's own network on its own samples and losses."""
    return kind_of({}).recipe(TrainConfig())


def recipe_of(config: TrainConfig) -> Recipe:
    """How the family of a run's model is trained.

    Raises:
        ConfigError: there is no such family, or what it needs is not named.
    """
    model = _mapping(config.model)
    own = model.get("kind", DEFAULT_KIND) == DEFAULT_KIND
    return default_recipe() if own else kind_of(model).recipe(config)


def make_accelerator(config: TrainConfig) -> Accelerator:
    """The one place where a run's device, precision, processes and tracker come from; seeds everything as well.

    Raises:
        ConfigError: the network is to be divided and there is one process only.
    """
    if config.tracker == "tensorboard":
        require_package("tensorboard", extra="train")
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=config.accumulate,
        cpu=config.device == "cpu",
        # The blocks of a divided network are compiled one by one.
        dynamo_backend="inductor" if config.compile and config.sharding == "none" else None,
        log_with=None if config.tracker == "none" else config.tracker,
        project_config=ProjectConfiguration(project_dir=config.out, logging_dir=str(Path(config.out) / "logs")),
        # Some regimes leave the image decoder out.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if config.sharding != "none":
        require_processes(accelerator)
    if accelerator.device.type == "cpu":
        _leave_cores_to_workers(config, accelerator.num_processes)
    set_seed(config.seed)
    return accelerator


def _leave_cores_to_workers(config: TrainConfig, processes: int) -> None:
    """Use the cores that the processes that prepare samples leave free, unless the user has said how many.

    Threads that wait for one another are slowed down to the slowest: where more of them run than there are cores, two
    can be slower than one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        own = (os.cpu_count() or 1) // processes
        torch.set_num_threads(max(own - config.data.workers, 1))


def train(
    config: TrainConfig, recipe: Optional[Recipe] = None, report: Callable[[Status], None] = lambda status: None
) -> Summary:
    """Train, or go on with a training, until its last step, its time or a signal; every end is saved.

    Args:
        config: the run's settings.
        recipe: what to train; that of the model's family when not given.
        report: is told how the run is doing every ``log_every`` steps, on the main process.

    Raises:
        ConfigError: a setting cannot be used, or the run's folder holds another training.
        CheckpointError: a checkpoint, or the weights to start from, cannot be used.
        DataError: data is missing or cannot be read.
        TrainingError: the loss is not a number.
    """
    deadline = time.monotonic() + config.minutes * 60 if config.minutes else float("inf")
    with StopOnSignal() as stop:
        recipe = recipe or recipe_of(config)
        config = dataclasses.replace(config, model=recipe.model_settings(_mapping(config.model)))
        checkpoint = _to_resume(config)
        trainer = _trainer(config, recipe, report, checkpoint)
        try:
            reason = trainer.run(lambda: stop.stopped, deadline)
        finally:
            trainer.batches.close()  # type: ignore[attr-defined]
            trainer.accelerator.end_training()
    sizes = [(weight.numel(), weight.requires_grad) for weight in trainer.network.outline.parameters()]
    trained = sum(size for size, is_trained in sizes if is_trained)
    return Summary(reason, config.out, trainer.tally, sum(size for size, _ in sizes), trained)


def _mapping(model: Any) -> Mapping[str, Any]:
    if isinstance(model, Mapping):
        return model
    raise ConfigError(f"model is {model!r}: load the settings with load_train_config, which reads presets.")


def _to_resume(config: TrainConfig) -> Optional[Checkpoint]:
    """The checkpoint to go on from, None for a new run."""
    out = Path(config.out)
    checkpoint = latest_checkpoint(out)
    if checkpoint is None:
        if config.resume:
            raise ConfigError(f"resume=true, but {out} holds no complete checkpoint.")
        return None
    if config.resume is False:
        raise ConfigError(f"resume=false, but {out} already holds a training: name another folder with out=.")
    saved = checkpoint.state.get("config")
    if not isinstance(saved, Mapping) or not isinstance(saved.get("model"), Mapping):
        raise CheckpointError(f"{checkpoint.path / 'state.json'} says nothing of the run's settings.")
    other = first_difference(saved["model"], _mapping(config.model))
    if other:
        raise CheckpointError(f"{checkpoint.path} is of another model ({other}): name another folder with out=.")
    other = first_difference(_adapters(saved.get("lora")), _adapters(train_config_to_mapping(config)["lora"]))
    if other:
        raise CheckpointError(f"{checkpoint.path} has other adapters (lora.{other}): name another folder with out=.")
    changed = differences(saved, train_config_to_mapping(config))
    if changed and config.resume is None:
        raise ConfigError(
            f"{out} holds a training with other settings ({', '.join(changed[:5])}): add resume=true to go on with "
            "these, or name another folder with out=."
        )
    return checkpoint


def _adapters(settings: Any) -> Mapping[str, Any]:
    """What of the settings of adapters a checkpoint cannot do without."""
    found = {**dataclasses.asdict(LoraConfig()), **(settings if isinstance(settings, Mapping) else {})}
    shaping = ("rank", "alpha", "targets", "also_train")
    return {name: found[name] for name in shaping} if found["rank"] else {"rank": 0}


def _trainer(
    config: TrainConfig, recipe: Recipe, report: Callable[[Status], None], checkpoint: Optional[Checkpoint]
) -> Trainer:
    sources = sources_of(config, None if checkpoint is None else checkpoint.state, recipe.files, recipe.licence)
    accelerator = make_accelerator(config)
    # First of all, as the seed has just been set.
    network = make_network(config, recipe.build, accelerator, checkpoint, recipe.stored)
    rank, world = accelerator.process_index, accelerator.num_processes
    parts = recipe.open_parts(config.data)
    if config.patience and not any(part.heldout for part in parts):
        raise ConfigError("patience waits for a better held-out error, and nothing is held out: set patience=0.")
    samples = TrainingSamples(parts, config, recipe.make_sample)
    average = Average(network.bare, config.ema)
    optimisers = make_optimisers(network.bare, config.optimiser)
    names = {parameter: name for name, parameter in network.bare.named_parameters()}
    tally = Tally()
    if checkpoint is not None:
        _load_average(average, checkpoint)
        load_optimisers(optimisers, names, checkpoint.tensors("optimiser"))
        tally = _tally(checkpoint)
        if checkpoint.state.get("processes") != world:
            _log.warning("the run had %s processes and has %s now", checkpoint.state.get("processes"), world)
    if accelerator.is_main_process:
        _write_settings(config)
    if config.tracker != "none":
        accelerator.init_trackers("")
    batches = training_batches(
        samples,
        recipe.collate,
        config,
        first=tally.step * config.accumulate,
        rank=rank,
        world=world,
        pin=accelerator.device.type == "cuda",
    )
    return Trainer(
        config=config,
        accelerator=accelerator,
        network=network,
        average=average,
        optimisers=optimisers,
        names=names,
        loss_of=recipe.loss_of,
        samples=samples,
        batches=batches,
        heldout=_heldout(parts, config, recipe, rank, world),
        shares={part.name: part.weight for part in parts},
        sources=sources,
        report=report,
        tally=tally,
        predict=recipe.predict,
    )


def _load_average(average: Average, checkpoint: Checkpoint) -> None:
    # Where everything was averaged once, weights that are trained no more lie there too.
    saved, wanted = checkpoint.tensors("ema"), average.weights()
    load_into(wanted, {name: saved[name] for name in wanted if name in saved}, str(checkpoint.path))
    average.start_from(checkpoint.step)


def _heldout(parts: List[Part], config: TrainConfig, recipe: Recipe, rank: int, world: int) -> Dict[str, List[Batch]]:
    """The held-out batches of this process; as many as any other has where all must compute together."""

    def of(rank: int, world: int) -> Dict[str, List[Batch]]:
        return heldout_batches(parts, recipe.make_sample, recipe.collate, config, rank=rank, world=world)

    found = of(rank, world)
    if config.sharding != "none":
        first = of(0, sys.maxsize)
        for part in parts:
            largest = -(-len(part.heldout) // world)
            for _ in range(-(-largest // config.batch) - len(found.get(part.name, []))):
                (batch,) = first[part.name]
                found[part.name].append({**batch, "weight": torch.zeros_like(batch["weight"])})
    return found


def _tally(checkpoint: Checkpoint) -> Tally:
    try:
        return Tally(**checkpoint.state["tally"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{checkpoint.path / 'state.json'} does not say how far the run was ({error}): remove the checkpoint to go "
            "on from the one before."
        ) from error


def _write_settings(config: TrainConfig) -> None:
    out = Path(config.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "config.yaml").write_text(dump_train_config(config), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"The run's folder {out} cannot be written: {error.strerror}.") from error
