"""``mf-ros scenes``: a contact sheet of the procedural training scenes, and how fast they are made."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Optional

import tyro

from mf_ros.cli.options import OK, Options, print_json, progress
from mf_ros.core.pictures import write_png
from mf_ros.errors import ConfigError
from mf_training.cli.sheets import check_sheet
from mf_training.scenes import SceneConfig, make_scene
from mf_training.scenes.sheet import contact_sheet


@dataclass(kw_only=True)
class Scenes(Options):
    """Draw procedural training scenes on one sheet: picture, true depth, and each LiDAR sweep over the picture.

    Returns are coloured by depth; a return ringed in red lies behind what the camera sees, as happens where the LiDAR
    looks past an edge. The same seed gives the same scene on every machine.

    Examples:
        mf-ros scenes --out sheet.png
        mf-ros scenes --out rooms.png --kind room --count 4 --seed 100
    """

    out: Annotated[Path, tyro.conf.arg(metavar="FILE")]
    """The PNG file to write; replaced if it exists."""
    count: int = 8
    """Number of scenes, one a row."""
    seed: int = 0
    """Seed of the first scene; the others follow."""
    scans: int = 3
    """LiDAR sweeps of each scene."""
    kind: Optional[Literal["street", "highway", "nature", "room", "yard", "floating"]] = None
    """Only this kind of scene."""
    height: int = 320
    """Height of the pictures, pixels; a multiple of 32."""
    width: int = 512
    """Width of the pictures, pixels; a multiple of 32."""

    def run(self) -> int:
        """Make the scenes, write the sheet, print what was made and how fast."""
        if self.count < 1 or self.scans < 1:
            raise ConfigError("--count and --scans must be at least 1.")
        check_sheet(self.out)
        config = SceneConfig() if self.kind is None else SceneConfig(kinds={self.kind: 1.0})
        scenes, spent = [], 0.0
        with progress("making scenes") as advance:
            for k in range(self.count):
                start = time.perf_counter()
                scenes.append(make_scene(self.seed + k, (self.height, self.width), scans=self.scans, config=config))
                spent += time.perf_counter() - start
                advance((k + 1) / self.count)
        write_png(self.out, contact_sheet(scenes), ConfigError)
        rate = self.count / spent
        if self.json:
            kinds = [scene.kind for scene in scenes]
            sweeps = [
                [dataclasses.asdict(s) | {"points": len(s.points), "ring": None} for s in scene.scans]
                for scene in scenes
            ]
            print_json({"path": self.out, "scenes_per_second": rate, "kinds": kinds, "sweeps": sweeps})
        else:
            print(f"{self.out}: {self.count} scenes with {self.scans} sweeps each, {rate:.2f} scenes/s")
        return OK
