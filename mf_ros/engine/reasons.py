"""Why an image gave no depth, and what else went wrong: stable names that summaries and diagnostics show."""

from __future__ import annotations

NO_CAMERA_INFO = "no_camera_info"
"""No camera_info was received."""
BAD_CAMERA_INFO = "bad_camera_info"
"""The camera_info message cannot be read."""
UNCALIBRATED = "uncalibrated"
"""The calibration cannot be used: K of zeros, unknown distortion model, values that are not finite."""
SIZE_MISMATCH = "size_mismatch"
"""The image has another size than its camera_info says."""
NO_LIDAR = "no_lidar"
"""No LiDAR has a sweep near enough in time."""
NO_TRANSFORM = "no_transform"
"""The pose of a LiDAR in the camera is not known."""
NO_RETURNS = "no_returns"
"""No LiDAR return falls into the image."""
NOT_METRIC = "not_metric"
"""The engine found no metric scale."""
BAD_IMAGE = "bad_image"
"""The image message cannot be decoded."""
BAD_POINTS = "bad_points"
"""No point cloud of the image can be decoded; as a warning: a message without a usable header."""
ENGINE_FAILED = "engine_failed"
"""The engine could not estimate this image."""
STALE = "stale"
"""A newer image was taken first, because live processing only wants the newest."""
QUEUE_FULL = "queue_full"
"""More images waited for their sweeps than the queue holds."""
TIME_JUMP = "time_jump"
"""Time jumped backward while the image waited, or the image came too late from before the jump."""
BAD_STAMP = "bad_stamp"
"""The image's stamp was far off, and the next image was in sequence again."""
UNHEARD = "unheard"
"""Nobody subscribes to what would be made of the image."""
NOT_PUBLISHED = "not_published"
"""No message can hold the result."""
INTERRUPTED = "interrupted"
"""The run was stopped while the image waited."""

PARTIAL_LIDAR = "partial_lidar"
"""Warning: depth was made without one of the LiDARs."""
NOT_DESKEWED = "not_deskewed"
"""Warning: the motion during a sweep, or between sweep and image, is not known, so it was not compensated."""
OLD_POSE = "old_pose"
"""Warning: the pose of a LiDAR in the camera moves, and the newest known one is a little older than the image."""
BAD_TRANSFORM = "bad_transform"
"""Warning: a transform cannot be used."""


class DropError(Exception):
    """An image cannot be processed, for a reason that is counted; it never leaves the pipeline.

    Attributes:
        reason: one of this module's names.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason
