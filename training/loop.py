"""The loop over steps: gradients, averaged weights, evaluation, checkpoints, and stopping at any moment.

Every random number derives from (seed, step, process), so a run resumed at a step draws what it would have drawn.
"""

from __future__ import annotations

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, Optional, Tuple

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from mf_ros.errors import MfRosError
from mf_training.checkpoints import prune, save_best, save_checkpoint
from mf_training.config import TrainConfig
from mf_training.data import Batch, TrainingSamples
from mf_training.heldout import Predict, predicted_in_one_step, score, scores
from mf_training.losses import one_regime
from mf_training.networks import Network
from mf_training.optimiser_state import halved, optimiser_tensors
from mf_training.recipe import Loss
from mf_training.schedule import Average, learning_rate_part, set_learning_rate
from mf_training.settings import train_config_to_mapping
from mf_training.sharding import let_go, summed_once, whole

Reason = Literal["finished", "plateau", "minutes", "interrupted"]


class TrainingError(MfRosError):
    """Training cannot go on."""


@dataclass
class Tally:
    """What a run has done so far, over all its parts; saved in every checkpoint.

    ``gained_ratio`` is the held-out error that the next must be lower than by ``min_gain``, and ``waited`` how many
    evaluations in a row were not.
    """

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    ratio: Optional[float] = None
    best_ratio: Optional[float] = None
    best_step: int = 0
    gained_ratio: Optional[float] = None
    waited: int = 0

    def judge(self, ratio: Optional[float], min_gain: float) -> bool:
        """Take in the result of an evaluation; True when it is the best so far."""
        self.ratio = ratio
        if ratio is None:
            return False
        if self.gained_ratio is None or ratio < self.gained_ratio * (1 - min_gain):
            self.gained_ratio, self.waited = ratio, 0
        else:
            self.waited += 1
        if self.best_ratio is not None and not ratio < self.best_ratio:
            return False
        self.best_ratio, self.best_step = ratio, self.step
        return True


@dataclass(frozen=True)
class Status:
    """How a run is doing, for a line on the screen.

    Attributes:
        step, steps: done, and to do in all.
        loss: mean since the last status.
        ratio: error on held-out data relative to the prior's, None before the first evaluation.
        samples_per_s: of all processes.
        waiting: part of the time that was spent waiting for data.
        eta_s: seconds until the last step.
    """

    step: int
    steps: int
    loss: float
    ratio: Optional[float]
    samples_per_s: float
    waiting: float
    eta_s: float


@dataclass
class Trainer:
    """Everything a running training needs; ``run`` does the steps.

    Attributes:
        network: what is trained.
        average: of its weights.
        names: of its parameters.
        heldout: batches of this process, by source.
        shares: of the sources.
        sources: what the run is made of, for its checkpoints.
        report: is told the status now and then, on the main process.
        predict: depth of held-out samples.
    """

    config: TrainConfig
    accelerator: Accelerator
    network: Network
    average: Average
    optimisers: Mapping[str, torch.optim.Optimizer]
    names: Mapping[Tensor, str]
    loss_of: Loss
    samples: TrainingSamples
    batches: Iterator[Batch]
    heldout: Mapping[str, List[Batch]]
    shares: Mapping[str, float]
    sources: Mapping[str, Any]
    report: Callable[[Status], None]
    tally: Tally
    predict: Predict = predicted_in_one_step

    def __post_init__(self) -> None:
        self._saved_step = self.tally.step if self.tally.step else -1
        self._evaluated_step = -1
        self._flops: Dict[Tuple[int, ...], float] = {}
        self._generator = torch.Generator()
        self._forget()

    @property
    def out(self) -> Path:
        """The run's folder."""
        return Path(self.config.out)

    def run(self, stopped: Callable[[], bool], deadline: float) -> Reason:
        """Train until the last step, a plateau, the deadline (on ``time.monotonic``) or a wish to stop; then save.

        Raises:
            TrainingError: the loss or the gradient is not a number; nothing is saved then.
            DataError: a sample cannot be made.
            CheckpointError: a checkpoint cannot be written.
        """
        config, tally = self.config, self.tally
        reason: Reason = "finished"
        while tally.step < config.steps:
            if 0 < config.patience <= tally.waited:
                reason = "plateau"
                break
            wish = 2 if stopped() else int(time.monotonic() >= deadline)
            if wish := self._agreed(wish):
                reason = "interrupted" if wish >= 2 else "minutes"
                break
            self._step()
            due = [tally.step % every == 0 for every in (config.log_every, config.eval_every, config.save_every)]
            if any(due):
                self._check_and_report()
            if due[1]:
                self._evaluate()
            if due[2]:
                self._save()
        self._check_and_report()
        if reason == "finished" and tally.step != self._evaluated_step:
            self._evaluate()
        if tally.step != self._saved_step:
            self._save()
        return reason

    def _step(self) -> None:
        config, started = self.config, time.monotonic()
        step, rank = self.tally.step, self.accelerator.process_index
        set_learning_rate(list(self.optimisers.values()), learning_rate_part(step, config.steps, config.schedule))
        loss_sum = torch.zeros((), device=self.accelerator.device)
        for micro in range(config.accumulate):
            batch = self._next_batch()
            seed = _derived(config.seed, step, rank, micro)
            self.tally.flops += self._flops_of(batch)
            set_seed(seed)
            losses = config.losses
            if config.sharding != "none":
                # Processes that hold parts of the same weights must have gradients of the same weights.
                losses = one_regime(losses, _derived(config.seed, step, 0, micro))
            with summed_once(self.network.net, self.accelerator, last=micro == config.accumulate - 1):
                loss, terms = self.loss_of(self.network.net, batch, self._generator.manual_seed(seed), losses)
                self.accelerator.backward(loss)
            loss_sum += loss.detach() / config.accumulate
            self._terms.append({name: value.detach() for name, value in terms.items()})
        norm = self.accelerator.clip_grad_norm_(self.network.bare.parameters(), config.optimiser.clip or math.inf)
        for optimiser in self.optimisers.values():
            optimiser.step()
            optimiser.zero_grad()
        self.average.update()
        self._losses.append(torch.stack([loss_sum, torch.as_tensor(whole(norm), device=loss_sum.device)]))
        self.tally.step += 1
        self.tally.samples += config.batch * config.accumulate * self.accelerator.num_processes
        self.tally.seconds += time.monotonic() - started

    def _next_batch(self) -> Batch:
        started = time.monotonic()
        batch = next(self.batches)
        self._waited += time.monotonic() - started
        return {key: value.to(self.accelerator.device, non_blocking=True) for key, value in batch.items()}

    def _flops_of(self, batch: Batch) -> float:
        """Operations of one batch in all processes, counted once for each shape of batch.

        Regimes differ a little in cost; the one that seed 0 draws stands for all, or a resumed run would count others.
        """
        shape = tuple(batch["image"].shape)
        if shape not in self._flops:
            # Compiled networks and some attention kernels hide their operations from the counter. Gradients are
            # thrown away: those of this step may be half gathered.
            outline = self.network.outline
            weights = [weight for weight in outline.parameters() if weight.requires_grad]
            moved = {name: value.to(weights[0].device) for name, value in batch.items()}
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                loss, _ = self.loss_of(outline, moved, self._generator.manual_seed(0), self.config.losses)
                torch.autograd.grad(loss, weights, allow_unused=True)
            self._flops[shape] = float(counter.get_total_flops())
        return self._flops[shape] * self.accelerator.num_processes

    def _agreed(self, wish: int) -> int:
        """The strongest wish of all processes, which must stop at the same step."""
        if self.accelerator.num_processes == 1:
            return wish
        mine = torch.tensor([wish], device=self.accelerator.device)
        return int(self.accelerator.gather(mine).max())

    def _forget(self) -> None:
        self._losses: List[Tensor] = []
        self._terms: List[Dict[str, Tensor]] = []
        self._waited = 0.0
        self._since = time.monotonic()

    def _check_and_report(self) -> None:
        """Read the losses since the last time: once in a while, as every reading makes a GPU wait."""
        if not self._losses:
            return
        config, tally = self.config, self.tally
        values = torch.stack(self._losses).cpu()
        first = tally.step - len(values)
        for place, (loss, norm) in enumerate(values.tolist()):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise TrainingError(self._not_finite(first + place, loss, norm))
        elapsed = max(time.monotonic() - self._since, 1e-9)
        per_step = config.batch * config.accumulate * self.accelerator.num_processes
        status = Status(
            step=tally.step,
            steps=config.steps,
            loss=float(values[:, 0].mean()),
            ratio=tally.ratio,
            samples_per_s=len(values) * per_step / elapsed,
            waiting=self._waited / elapsed,
            eta_s=(config.steps - tally.step) * elapsed / len(values),
        )
        names = {name for terms in self._terms for name in terms}
        means = {n: float(torch.stack([t[n] for t in self._terms if n in t]).float().mean()) for n in sorted(names)}
        self._log({f"loss/{name}": value for name, value in means.items()})
        self._log(
            {
                "loss/total": status.loss,
                "gradient_norm": float(values[:, 1].mean()),
                "learning_rate": config.optimiser.lr
                * learning_rate_part(tally.step - 1, config.steps, config.schedule),
                "samples_per_s": status.samples_per_s,
                "waiting": status.waiting,
            }
        )
        if self.accelerator.is_main_process:
            self.report(status)
        self._forget()

    def _not_finite(self, step: int, loss: float, norm: float) -> str:
        per_step = self.config.batch * self.config.accumulate * self.accelerator.num_processes
        what = f"the loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        samples = self.samples.describe(step * per_step, (step + 1) * per_step - 1)
        last = f"step_{self._saved_step:08d} in {self.out}" if self._saved_step >= 0 else "none"
        return (
            f"At step {step + 1} {what}: {samples}, seed {self.config.seed}. Nothing was saved after the last good "
            f"checkpoint ({last}), from which the same command comes to this step again; a lower optimiser.lr helps."
        )

    def _log(self, values: Mapping[str, float]) -> None:
        if values and self.config.tracker != "none":
            self.accelerator.log(dict(values), step=self.tally.step)

    def _evaluate(self) -> None:
        """Score the averaged weights on the held-out samples and keep the best."""
        started = time.monotonic()
        tally, bare = self.tally, self.network.bare
        self._evaluated_step = tally.step
        let_go(bare)
        with self.average.in_place():
            bare.eval()
            with self.accelerator.autocast():
                sums = score(bare, self.heldout, self.accelerator.device, self.predict)
            bare.train()
            let_go(bare)
            sums = self.accelerator.reduce(sums, "sum")
            found = scores({name: {k: float(v) for k, v in each.items()} for name, each in sums.items()}, self.shares)
            self._log({f"heldout/{name}": value for name, value in found.items()})
            if tally.judge(found.get("ratio"), self.config.min_gain):
                state = {**self._state(), "scores": found}
                weights, small = self.network.weights(), self.config.state_small
                save_best(self.out, tally.step, weights, state, writes=self._writes, small=small)
        self._count_time(started)

    def _save(self) -> None:
        started = time.monotonic()
        optimiser = optimiser_tensors(self.optimisers, self.names)
        weights, small = self.network.weights(), self.config.state_small
        tensors = {
            "model": weights,
            "ema": {**weights, **self.average.weights()},
            "optimiser": halved(optimiser) if small else optimiser,
        }
        save_checkpoint(self.out, self.tally.step, tensors, self._state(), writes=self._writes, small=small)
        if self._writes:
            prune(self.out, self.config.keep, self.tally.step)
        self.accelerator.wait_for_everyone()
        self._saved_step = self.tally.step
        self._count_time(started)

    @property
    def _writes(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _count_time(self, started: float) -> None:
        """Count time towards the run's, but not towards the pace of its steps."""
        self.tally.seconds += time.monotonic() - started
        self._since += time.monotonic() - started

    def _state(self) -> Dict[str, Any]:
        base = {} if self.network.base is None else {"base": dict(self.network.base)}
        return {
            **base,
            "sources": dict(self.sources),
            "tally": dataclasses.asdict(self.tally),
            "processes": self.accelerator.num_processes,
            "config": train_config_to_mapping(self.config),
        }


def _derived(*numbers: int) -> int:
    """A seed of 32 bits that mixes several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])
