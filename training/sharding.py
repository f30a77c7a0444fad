"""A network divided over the processes of a run: FSDP2 applied from outside, as torchtitan does it.

Every process holds a part of each weight, of its gradient, of its average and of the optimiser's state, and gathers the
weights of a block only while it computes with them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import warnings
from typing import TYPE_CHECKING, Iterator, List

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from mf_ros.errors import ConfigError

if TYPE_CHECKING:
    from accelerate import Accelerator


def shard(net: nn.Module, accelerator: Accelerator, *, half: bool, compiled: bool) -> None:
    """Divide a network in place: each block of its lists of blocks by itself, and what is left as a whole.

    Weights that are on the meta device get memory, and no values, on the accelerator's.

    Args:
        net: the network, the same in all processes.
        accelerator: its processes and its device.
        half: gather the weights of blocks in bfloat16; gradients are summed in full precision all the same. The rest,
            where small differences of depth enter and leave, stays in full precision and is left to autocast.
        compiled: compile each block.
    """
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    of_blocks = dataclasses.replace(policy, param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if half else policy
    for block in blocks_of(net):
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh, mp_policy=of_blocks)
    fully_shard(net, mesh=mesh, mp_policy=policy)
    if any(weight.is_meta for weight in net.parameters()):
        net.to_empty(device=accelerator.device)
    # Nothing changes outputs in place, and the few norms among the weights in bfloat16 lose nothing but a little time.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")


def recompute_blocks(net: nn.Module) -> None:
    """Let every block keep its input alone, in place; its inside is computed again in the backward pass."""
    for block in blocks_of(net):
        block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)


def blocks_of(net: nn.Module) -> List[nn.Module]:
    """The members of all lists of modules, inner ones first."""
    lists = [module for module in net.modules() if isinstance(module, nn.ModuleList)]
    return [block for each in reversed(lists) for block in each]


def require_processes(accelerator: Accelerator) -> None:
    """Refuse to divide a network over one process.

    Raises:
        ConfigError: says how to start several.
    """
    if accelerator.num_processes == 1:
        raise ConfigError(
            "sharding=fsdp2 divides the network over several processes, and this is a single one: start it with "
            "torchrun --nproc-per-node NUMBER -m mf_ros.cli.main train ..., or set sharding=none."
        )


def whole(value: Tensor) -> Tensor:
    """A tensor with all its parts; every process must ask for it."""
    full: Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return full


def part(value: Tensor) -> Tensor:
    """This process's part of a tensor that may be divided; changes go both ways."""
    own: Tensor = value._local_tensor if isinstance(value, DTensor) else value
    return own


def joined(own: Tensor, like: Tensor) -> Tensor:
    """The tensor whose parts the processes hold, divided as ``like`` is."""
    if not isinstance(like, DTensor):
        return own
    return DTensor.from_local(
        own, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def divided(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in all processes, as ``like`` is: divided over them, or as it is."""
    if not isinstance(like, DTensor):
        return value
    value = value.detach().to(like.device)
    found = distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
    # Without the copy, this process's part would keep the whole in memory.
    return joined(part(found).clone(), like)


def fill(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into one that may be divided."""
    with torch.no_grad():
        part(target).copy_(part(divided(value, target)))


@contextlib.contextmanager
def summed_once(net: nn.Module, accelerator: Accelerator, last: bool) -> Iterator[None]:
    """One forward and backward pass of a step; processes add up their gradients in the step's last one only."""
    if isinstance(net, FSDPModule):
        net.set_requires_gradient_sync(last)
        yield
    elif last:
        yield
    else:
        with accelerator.no_sync(net):
            yield


def let_go(net: nn.Module) -> None:
    """Forget gathered weights, which would otherwise outlive a change of the parts."""
    for module in net.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
