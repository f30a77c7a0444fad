"""What the pipeline asks of an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, Protocol, runtime_checkable

from mf_ros.core.types import ByteArray, DepthEstimate, SparseDepth

if TYPE_CHECKING:
    from mf_ros.core.camera import CameraModel


class DepthEngine(Protocol):
    """Dense depth from one image and its sparse depth; may keep state from frame to frame."""

    @property
    def name(self) -> str:
        """Short name for tables and summaries."""
        ...

    def estimate(self, image: ByteArray, sparse: SparseDepth, camera: CameraModel) -> DepthEstimate:
        """Dense depth of one frame.

        Args:
            image: (H, W, 3) uint8 RGB.
            sparse: LiDAR depth on the same grid, metres; visible returns only.
            camera: model of ``image``.

        Returns:
            Depth and confidence of the image's size; ``metric`` is False when no scale was found.

        Raises:
            MfRosError: this frame cannot be estimated; the next one may.
        """
        ...

    def describe(self) -> Dict[str, str]:
        """What runs, for reports and diagnostics: for example method, weights, device, precision."""
        ...


@runtime_checkable
class RemembersFrames(Protocol):
    """An engine that uses earlier frames for the next one."""

    def reset(self) -> None:
        """Forget earlier frames."""
        ...

    def fresh(self) -> DepthEngine:
        """An engine like this one that remembers no frame and shares what is costly to load."""
        ...


def forget_frames(engine: DepthEngine) -> None:
    """Tell an engine that the next frame does not follow the last one: time jumped, or it is of another recording."""
    if isinstance(engine, RemembersFrames):
        engine.reset()


def without_memory(engine: DepthEngine) -> DepthEngine:
    """An engine to ask something beside the stream: it knows none of its frames and leaves the stream's own alone."""
    return engine.fresh() if isinstance(engine, RemembersFrames) else engine
