"""``mf-ros sample``: a contact sheet of what a network makes of image, LiDAR, depth, or noise alone."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Tuple, Union

import tyro

from mf_ros.cli.options import OK, Options, print_json, progress
from mf_ros.core.pictures import write_png
from mf_ros.engine.bundle import load_bundle
from mf_ros.engine.torch_backend import load_network
from mf_ros.errors import ConfigError
from mf_ros.model import ModalityForcing
from mf_ros.model.protocol import Sampler
from mf_training.cli.sheets import check_sheet
from mf_training.config import SceneSourceConfig
from mf_training.flux.weights import is_flux
from mf_training.pictures import sample_row, sample_sheet
from mf_training.scenes import make_scene


@dataclass(kw_only=True)
class Sample(Options):
    """Draw what a network makes of procedural scenes that training holds out, one row a scene.

    Columns: image, true depth and the LiDAR shown; depth from image and LiDAR, from LiDAR alone and from the image
    alone, in one step each, with the mean relative error below (without LiDAR after scaling by the median ratio); an
    image made from the true depth; image and depth made together from noise. The same seed gives the same sheet.

    Examples:
        mf-ros sample nano --out samples.png
        mf-ros sample my_model --out samples.png --count 8 --seed 100 --steps 25
    """

    model: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="MODEL")]]
    """A shipped network, or the folder that mf-ros export wrote, also of a network of the kind flux2."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The PNG file to write; replaced if it exists."""
    count: int = 4
    """Number of scenes."""
    seed: int = 0
    """Which of the held-out scenes comes first; the others follow."""
    steps: int = 8
    """Denoising steps of images, and of image and depth together."""
    height: int = 256
    """Height of the pictures, pixels; a multiple of 32."""
    width: int = 384
    """Width of the pictures, pixels; a multiple of 32."""
    accept_noncommercial: bool = False
    """Use weights whose licence forbids commercial use."""

    def run(self) -> int:
        """Make scenes and samples, write the sheet, print the mean errors."""
        if self.count < 1 or self.steps < 1 or self.seed < 0:
            raise ConfigError("--count and --steps must be at least 1, --seed at least 0.")
        check_sheet(self.out)
        net, depth_steps = self._network()
        first = SceneSourceConfig().heldout_first_seed + self.seed
        rows = []
        with progress("sampling") as advance:
            for k in range(self.count):
                scene = make_scene(first + k, (self.height, self.width), scans=1)
                rows.append(sample_row(net, scene, self.steps, depth_steps))
                advance((k + 1) / self.count)
        write_png(self.out, sample_sheet(rows), ConfigError)
        named = {cells[0].name: [cell.error for cell in cells] for cells in zip(*rows, strict=True)}
        errors = {name: values for name, values in named.items() if values[0] is not None}
        if self.json:
            print_json({"path": self.out, "seeds": [first + k for k in range(self.count)], "relative_errors": errors})
        else:
            means = ", ".join(f"{name} {sum(values) / len(values):.1%}" for name, values in errors.items())
            print(f"{self.out}: {self.count} scenes; mean relative error: {means}")
        return OK

    def _network(self) -> Tuple[Union[ModalityForcing, Sampler], int]:
        """The network, and the steps that depth from image or LiDAR takes: one of a network that is made for one."""
        folder = Path(self.model).expanduser()
        if not folder.is_dir() or not is_flux(folder):
            return load_network(load_bundle(self.model)).eval(), 1
        # Not before it is asked for: its packages are an extra of their own.
        pictures = importlib.import_module("mf_training.flux.pictures")
        return pictures.flux_pictures(folder, accept_noncommercial=self.accept_noncommercial), self.steps
