"""``mf-ros dataset``: what is in a data set, what would hurt a training on it, and how its samples look."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Dict, Literal, Optional, Sequence

import tyro

from mf_ros.cli.options import FINDINGS, OK, Options, print_json, printable, progress
from mf_ros.errors import ConfigError
from mf_ros.findings import has_errors

OVERVIEW_PAGE, SAMPLE_PAGE = "dataset.html", "sample.html"


@dataclass(kw_only=True)
class Dataset(Options):
    """Look into a data set that mf-ros extract wrote.

    Counts rows by split, robot, LiDAR and camera; measures on at most 40 rows, spread evenly, how the returns lie on
    the image; and says in plain words what would hurt a training. With --out it also writes a page with a contact
    sheet. --sample tells everything of one sample.

    Exit code 1 when something stands in the way of a training, such as an empty split train.

    Examples:
        mf-ros dataset show fleet --out fleet.html
        mf-ros dataset show fleet --sample 17 --out sample.html
        mf-ros dataset show fleet.parquet --split val
        mf-ros dataset show fleet --json | jq -r '.findings[].text'
    """

    action: tyro.conf.Positional[Annotated[Literal["show"], tyro.conf.arg(metavar="show")]]
    """What to do."""
    dataset: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="DATASET")]]
    """Folder or .parquet file of the data set."""
    out: Annotated[Optional[Path], tyro.conf.arg(metavar="FOLDER_OR_FILE.html")] = None
    """Where to write an HTML page that needs nothing else."""
    sample: Annotated[Optional[str], tyro.conf.arg(metavar="ID_OR_NUMBER")] = None
    """Tell of this sample alone: its sample_id, or its place in the table, from 0."""
    split: Annotated[Optional[Literal["train", "val", "test"]], tyro.conf.arg(metavar="train|val|test")] = None
    """Look at the rows of this split only."""

    def run(self) -> int:
        """Look into the data set and print what is found; 1 when one of the findings is an error."""
        if self.sample is not None and self.split is not None:
            raise ConfigError("--sample names one row, so --split says nothing more: give only one of them.")
        # Only here and below, so that the help needs none of the packages that data sets do.
        from mf_ros.dataset.dataset import Dataset as Opened

        opened = Opened(self.dataset)
        return self._overview(opened) if self.sample is None else self._sample(opened, self.sample)

    def _overview(self, opened: Any) -> int:
        from mf_ros.dataset.show.overview import look_into
        from mf_ros.dataset.show.page import page_path, write_overview
        from mf_ros.dataset.show.pictures import thumbnail
        from mf_ros.dataset.show.text import overview_json, overview_lines

        path = None if self.out is None else page_path(self.out, OVERVIEW_PAGE)
        with progress("measuring") as advance:
            draw = None if path is None else thumbnail
            overview = look_into(opened, draw, split=self.split or "", progress=advance)
        if path is not None:
            write_overview(path, overview)
        self._tell(overview_json(overview), overview_lines(overview), path)
        return FINDINGS if has_errors(overview.findings) else OK

    def _sample(self, opened: Any, sample: str) -> int:
        from mf_ros.dataset.show.overview import place_of
        from mf_ros.dataset.show.page import page_path, write_sample
        from mf_ros.dataset.show.sample import sample_json, sample_lines, view_sample

        view = view_sample(opened, place_of(opened, sample))
        path = None if self.out is None else page_path(self.out, SAMPLE_PAGE)
        if path is not None:
            write_sample(path, view)
        self._tell(sample_json(view), sample_lines(view), path)
        return FINDINGS if view.problem else OK

    def _tell(self, values: Dict[str, Any], lines: Sequence[str], path: Optional[Path]) -> None:
        if self.json:
            print_json({**values, "page": path})
            return
        print("\n".join(map(printable, lines)))
        if path is not None:
            print(f"page: {path}")
