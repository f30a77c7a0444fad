"""The FLUX.2 networks with depth, as the trainer knows them."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Mapping, Sequence

from mf_ros.core.settings import plain_values
from mf_ros.errors import ConfigError
from mf_ros.model.flux2 import Flux2Config, Flux2Network
from mf_ros.model.flux2.text import empty_prompt
from mf_ros.model.flux2.vae import load_autoencoder
from mf_training.checkpoints import Checkpoint
from mf_training.config import TrainConfig
from mf_training.data import open_parts
from mf_training.recipe import Recipe, without_kind
from mf_training.samples import collate

if TYPE_CHECKING:
    from mf_training.export import Exported


class FluxKind:
    """Networks of ``mf_ros.model.flux2``."""

    name = "flux2"

    def settings(self, model: Mapping[str, Any]) -> Dict[str, Any]:
        sizes = vars(_sizes(model))
        return {"kind": self.name, **plain_values(dict(sizes))}

    def build(self, model: Mapping[str, Any]) -> Flux2Network:
        return Flux2Network(_sizes(model))

    def recipe(self, config: TrainConfig) -> Recipe:
        # Not before it is asked for: what is wrong with settings is said without the packages of this network.
        from mf_training.flux.objective import FluxObjective
        from mf_training.flux.samples import make_flux_sample
        from mf_training.flux.weights import accepted_licence, flux_files, flux_weights, parts_folder

        assert isinstance(config.model, Mapping)
        sizes, parts, licence = _sizes(config.model), parts_folder(config), accepted_licence(config)
        objective = FluxObjective(load_autoencoder(parts), empty_prompt(parts, sizes.text_channels), sizes, config.flux)
        return Recipe(
            model_settings=self.settings,
            build=self.build,
            loss_of=objective.loss_of,
            make_sample=make_flux_sample,
            collate=collate,
            open_parts=open_parts,
            predict=objective.predicted,
            stored=functools.partial(flux_weights, sizes=sizes),
            files=flux_files,
            licence=licence,
        )

    def activations(self, model: Mapping[str, Any], config: TrainConfig) -> int:
        from mf_training.flux.memory import activation_bytes

        return activation_bytes(_sizes(model), config)

    def export(
        self,
        checkpoint: Checkpoint,
        out: Path,
        *,
        base: str,
        licence: str,
        metrics: Mapping[str, Any],
        graph_options: Sequence[str],
    ) -> Exported:
        from mf_training.flux.export import export_flux

        if graph_options:
            raise ConfigError(
                f"A run of a FLUX.2 network is exported as its weights, without ONNX graphs and without a scale of its "
                f"error that could be corrected: leave {' and '.join(graph_options)} out."
            )
        return export_flux(checkpoint, out, base=base, licence=licence, metrics=metrics)


def _sizes(model: Mapping[str, Any]) -> Flux2Config:
    return Flux2Config.from_mapping(plain_values(without_kind(model)))


KIND = FluxKind()
