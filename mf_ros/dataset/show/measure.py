"""What is measured on a few rows of a data set: how the LiDAR lies on the image, and how bright that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import cv2
import numpy as np

from mf_ros.core.config import Config
from mf_ros.core.projection import ProjectedReturns, project_points
from mf_ros.core.types import AnyArray, BoolArray, ByteArray, FloatArray
from mf_ros.dataset.dataset import Dataset
from mf_ros.dataset.row import SPLITS, DatasetError, Row
from mf_ros.dataset.show.columns import Columns
from mf_ros.engine.assemble import AssembledFrame, FrameAssembler
from mf_ros.engine.reasons import DropError
from mf_ros.evaluation.metrics import RANGES_M

ROWS = 40
"""Rows that are measured and shown, at most."""
DISTANCES_M = (*RANGES_M, (RANGES_M[-1][1], float("inf")))
"""From where to where returns are counted by depth, metres."""

# Of the image's width: gaps between returns of up to twice that count as covered.
_REACH = 1 / 16
_COVER_WIDTH = 240
_DARK, _BRIGHT = 20, 250


@dataclass(frozen=True, eq=False)
class Projected:
    """A row as the robot would see it.

    Attributes:
        place: of the row in the table.
        row: what was measured.
        assembled: image and points in the camera's frame.
        returns: those in the image.
    """

    place: int
    row: Row
    assembled: AssembledFrame
    returns: ProjectedReturns

    @property
    def image(self) -> ByteArray:
        """(H, W, 3) uint8 RGB."""
        return self.assembled.frame.image


@dataclass(frozen=True, eq=False)
class Measured:
    """What is measured on one row.

    Attributes:
        place: of the row in the table.
        sample_id, bag_id, robot_id, split: of the row.
        visible, hidden, lonely: LiDAR returns in the image, by what became of them.
        per_1000_px: visible returns for each thousand pixels.
        covered: part of the image that the LiDAR covers, in [0, 1]; see ``covered``.
        depth_m: (V,) float32 of the visible returns, metres.
        dark, bright: part of the pixels that are nearly black, and nearly white, in [0, 1].
        lines: scan lines of each LiDAR that tells them, by frame.
        compensated: whether the motion during all sweeps was compensated.
    """

    place: int
    sample_id: str
    bag_id: str
    robot_id: str
    split: str
    visible: int
    hidden: int
    lonely: int
    per_1000_px: float
    covered: float
    depth_m: FloatArray
    dark: float
    bright: float
    lines: Dict[str, int]
    compensated: bool


@dataclass(frozen=True, eq=False)
class Measurement:
    """What is measured on some rows.

    Attributes:
        rows: those that can be used.
        pictures: (H, W, 3) uint8 RGB, what was drawn of each of them; none where nothing was.
        problems: place in the table and what is wrong, of those that cannot.
    """

    rows: Tuple[Measured, ...]
    pictures: Tuple[ByteArray, ...]
    problems: Tuple[Tuple[int, str], ...]


def chosen_rows(columns: Columns, most: int = ROWS) -> List[int]:
    """Places of rows that are spread evenly over splits, in each over recordings, and in those over time."""
    split = np.array([SPLITS.index(name) if name in SPLITS else len(SPLITS) for name in columns.split.names], np.int64)
    order = np.lexsort((columns.stamp_ns, columns.bag.codes, split[columns.split.codes]))
    groups: Dict[int, List[AnyArray]] = {}
    keys = np.stack([split[columns.split.codes], columns.bag.codes])[:, order]
    ends = np.flatnonzero((np.diff(keys, axis=1) != 0).any(axis=0)) + 1
    for part in np.split(order, ends):
        if len(part):
            groups.setdefault(int(split[columns.split.codes[part[0]]]), []).append(part)
    found: List[int] = []
    shares = shared_out(most, [sum(map(len, bags)) for bags in groups.values()])
    for share, bags in zip(shares, groups.values(), strict=True):
        for count, rows in zip(shared_out(share, [len(rows) for rows in bags]), bags, strict=True):
            found += columns.place[rows[_spread(count, len(rows))]].tolist()
    return found


def shared_out(number: int, sizes: Sequence[int]) -> List[int]:
    """How many of ``number`` things each group gets: as equal as can be, and to none more than it has room for."""
    given = np.zeros(len(sizes), np.int64)
    room = np.array(sizes, np.int64)
    while number > 0 and (open_ := np.flatnonzero(room > given)).size:
        each = number // len(open_)
        # What is left when there are more groups than things goes to groups far apart.
        open_ = open_ if each else open_[_spread(number, len(open_))]
        more = np.minimum(max(each, 1), room[open_] - given[open_])
        given[open_] += more
        number -= int(more.sum())
    return [int(count) for count in given]


def _spread(count: int, length: int) -> AnyArray:
    """``count`` places out of ``length``, as far apart as can be and away from the ends."""
    return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(np.int64)


def project_row(dataset: Dataset, place: int, assembler: FrameAssembler, config: Config) -> Projected:
    """A row with its returns on its image, by the robot's own code.

    Raises:
        DatasetError: the row is damaged, or the robot would make nothing of it.
    """
    row = dataset.row(place)
    try:
        assembled = assembler.assemble(row.decoded())
    except DropError as error:
        raise DatasetError(f"Sample {row.sample_id} gives no depth ({error.reason}): {error}") from error
    returns = project_points(assembled.points, assembled.frame.camera, config.projection)
    return Projected(place, row, assembled, returns)


def measure(
    dataset: Dataset,
    places: Sequence[int],
    draw: Optional[Callable[[Projected], ByteArray]] = None,
    progress: Optional[Callable[[float], None]] = None,
) -> Measurement:
    """Measure some rows, one after the other, so that only one is in memory.

    Args:
        dataset: where they are.
        places: of the rows.
        draw: makes the picture that is kept of each.
        progress: told the part done, in [0, 1].
    """
    config = dataset.description.settings
    assembler = FrameAssembler(config)
    rows, pictures, problems = [], [], []
    for number, place in enumerate(places):
        try:
            projected = project_row(dataset, place, assembler, config)
        except DatasetError as error:
            problems.append((place, str(error)))
            continue
        finally:
            if progress is not None:
                progress((number + 1) / len(places))
        rows.append(measured(projected))
        if draw is not None:
            pictures.append(draw(projected))
    return Measurement(tuple(rows), tuple(pictures), tuple(problems))


def measured(projected: Projected) -> Measured:
    """The numbers of one row."""
    row, returns, image = projected.row, projected.returns, projected.image
    visible, lonely = int(returns.visible.sum()), int(returns.lonely.sum())
    lightness = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return Measured(
        place=projected.place,
        sample_id=row.sample_id,
        bag_id=row.bag_id,
        robot_id=row.robot_id,
        split=row.split,
        visible=visible,
        hidden=len(returns) - visible - lonely,
        lonely=lonely,
        per_1000_px=1e3 * visible / (image.shape[0] * image.shape[1]),
        covered=covered(returns, image.shape[:2]),
        depth_m=returns.z[returns.visible],
        dark=float((lightness < _DARK).mean()),
        bright=float((lightness >= _BRIGHT).mean()),
        lines={
            sweep.frame_id: len(np.unique(sweep.ring))
            for sweep in row.sweeps
            if sweep is not None and sweep.ring is not None
        },
        compensated=all(
            done for done, sweep in zip(projected.assembled.compensated, row.sweeps, strict=True) if sweep is not None
        ),
    )


def covered(returns: ProjectedReturns, shape: Tuple[int, ...]) -> float:
    """Part of an image of ``shape`` (H, W) that the LiDAR covers, in [0, 1].

    Gaps between visible returns of up to an eighth of the image's width, as between scan lines, count as covered.
    """
    width = min(_COVER_WIDTH, shape[1])
    height = max(1, round(shape[0] * width / shape[1]))
    rows, cols = returns.pixels()
    seen = np.zeros((height, width), np.uint8)
    seen[rows[returns.visible] * height // shape[0], cols[returns.visible] * width // shape[1]] = 1
    reach = max(1, round(width * _REACH))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    closed: BoolArray = cv2.morphologyEx(seen, cv2.MORPH_CLOSE, kernel) > 0
    return float(closed.mean())


def counts_by_distance(depths_m: FloatArray) -> List[int]:
    """How many depths lie in each of ``DISTANCES_M``."""
    return [int(((depths_m >= near) & (depths_m < far)).sum()) for near, far in DISTANCES_M]
