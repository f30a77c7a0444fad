"""The state of optimisers as tensors by name, for checkpoints."""

from __future__ import annotations

from typing import Dict, Mapping

import torch
from torch import Tensor

from mf_training.checkpoints import CheckpointError
from mf_training.sharding import divided


def optimiser_tensors(
    optimisers: Mapping[str, torch.optim.Optimizer], names: Mapping[Tensor, str]
) -> Dict[str, Tensor]:
    """Every tensor of the optimisers' states as ``OPTIMISER:PARAMETER:ENTRY``.

    Args:
        optimisers: by name.
        names: of the parameters.
    """
    found: Dict[str, Tensor] = {}
    for kind, optimiser in optimisers.items():
        for parameter, entries in optimiser.state.items():
            for entry, value in entries.items():
                found[f"{kind}:{names[parameter]}:{entry}"] = torch.as_tensor(value)
    return found


def halved(tensors: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    """The same with all but single numbers in bfloat16."""
    return {key: value.to(torch.bfloat16) if value.numel() > 1 else value for key, value in tensors.items()}


def load_optimisers(
    optimisers: Mapping[str, torch.optim.Optimizer], names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put saved states back; learning rates and the like stay as they are.

    Raises:
        CheckpointError: the states are those of other optimisers.
    """
    states: Dict[str, Dict[str, Dict[str, Tensor]]] = {}
    for key, value in tensors.items():
        kind, name, entry = key.split(":")
        states.setdefault(kind, {}).setdefault(name, {})[entry] = value
    for kind, optimiser in optimisers.items():
        saved = states.pop(kind, {})
        parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
        unknown = set(saved) - {names[parameter] for parameter in parameters}
        if unknown:
            raise CheckpointError(
                f"The checkpoint's {kind} state is of other parameters ({min(unknown)}): "
                "set the optimiser as it was, or start from the weights alone with init= and another out=."
            )
        state = {
            place: {entry: _as_saved(value, p) for entry, value in saved[names[p]].items()}
            for place, p in enumerate(parameters)
            if names[p] in saved
        }
        optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    if states:
        raise CheckpointError(
            f"The checkpoint has a state of the optimiser {min(states)}, which this run does not use: "
            "set optimiser.name as it was, or start from the weights alone with init= and another out=."
        )


def _as_saved(value: Tensor, parameter: Tensor) -> Tensor:
    """What is kept for each weight lies where the weight lies; single numbers, such as counts, lie everywhere."""
    return divided(value, parameter) if value.shape == parameter.shape else value
