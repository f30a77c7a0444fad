"""What the words of a summary mean, for its report: reasons, stages and metrics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

from mf_ros.core import matching
from mf_ros.engine import reasons

NOT_WRITTEN = "not_written"
"""The depth of an image cannot be written, for example because of its stamp."""
PUBLISHED = "published"
"""Metric: part of the judged returns that lie where depth was published."""

ADVICE: Mapping[str, str] = {
    reasons.NO_CAMERA_INFO: "Record the CameraInfo topic of this camera, or name it with --camera-info-topic.",
    reasons.BAD_CAMERA_INFO: "Look at the camera driver: its CameraInfo messages are malformed.",
    reasons.UNCALIBRATED: "Calibrate the camera (camera_calibration) and let the driver load the result.",
    reasons.SIZE_MISMATCH: "Use the calibration of this resolution, and resize image and CameraInfo together.",
    reasons.NO_LIDAR: "Compare the clocks with mf-ros check; set sync.lidar_offset_s, or raise sync.tolerance_s.",
    reasons.NO_TRANSFORM: "Record /tf and /tf_static with the pose of the LiDAR and of the camera's optical frame.",
    reasons.NO_RETURNS: "Look at the pictures of mf-ros check --out: camera and LiDAR must look the same way.",
    reasons.NOT_METRIC: "Too few LiDAR returns fall into the image: check the field of view and the range limits.",
    reasons.BAD_IMAGE: "Look at the camera driver and the recorder: these images cannot be decoded.",
    reasons.BAD_POINTS: "Look at the LiDAR driver: these clouds cannot be decoded.",
    reasons.ENGINE_FAILED: "Try --engine classical, and report the message if it persists.",
    reasons.STALE: "Processing is slower than the camera: choose engine.quality fast, or lower output.scale.",
    reasons.QUEUE_FULL: "Raise sync.queue_size, and check that the LiDAR did not stop.",
    reasons.TIME_JUMP: "Record without looping, and give all machines one clock (chrony, PTP).",
    reasons.BAD_STAMP: "Look at the camera driver: it sets the stamps of these images wrongly.",
    reasons.UNHEARD: "Only the live node does this: subscribe to one of its outputs.",
    reasons.NOT_PUBLISHED: "Look at the stamps of the camera and at output.encoding: no message can hold this depth.",
    reasons.INTERRUPTED: "Run the command again and let it finish; what was done until then is right.",
    reasons.PARTIAL_LIDAR: "Check the rate and the clock of each LiDAR with mf-ros check.",
    reasons.NOT_DESKEWED: "Record /tf of a world-fixed frame and name it in lidar.fixed_frame.",
    reasons.OLD_POSE: "Record /tf at a higher rate, or raise sync.max_wait_s above its delay.",
    reasons.BAD_TRANSFORM: "Find the node that publishes this transform; it is left out here.",
    matching.SWEEP_QUEUE_FULL: "Harmless when the LiDAR is faster than the camera; else raise sync.queue_size.",
    matching.SWEEP_TIME_JUMP: "Record without looping, and give all machines one clock (chrony, PTP).",
    matching.SWEEP_BAD_STAMP: "Look at the LiDAR driver: it sets the stamps of these sweeps wrongly.",
    NOT_WRITTEN: "Look at the clock of the camera: ROS 2 stamps end in the year 2038.",
    "not_copied": "Depth is not affected; these input messages are missing from out.mcap.",
}
"""What to do about each reason for which an image gave no depth, and about each warning."""

STAGES: Mapping[str, str] = {
    "decode_points": "LiDAR message to points",
    "decode_image": "image message to pixels",
    "prepare": "rectify and resize",
    "to_camera": "transform and motion compensation",
    "project": "project, remove hidden and lonely returns",
    "estimate": "engine: sparse to dense depth",
    "messages": "cloud and other messages (not in total)",
    "write": "writing out.mcap (not in total)",
}
"""What each stage of the latency does."""


@dataclass(frozen=True)
class Metric:
    """A metric as a person reads it."""

    title: str
    unit: str
    meaning: str
    factor: float = 1.0
    decimals: int = 3


METRICS: Mapping[str, Metric] = {
    "mae": Metric("MAE", "m", "mean absolute error; far returns and edges dominate it"),
    "rmse": Metric("RMSE", "m", "root of the mean squared error; a few large errors raise it"),
    "median": Metric("median", "m", "half of the returns have a smaller error; blind to the worst half"),
    "absrel": Metric("AbsRel", "%", "mean error as part of the true depth", 100.0, 2),
    "imae": Metric("iMAE", "1/km", "mean error of inverse depth; near surfaces dominate it", decimals=2),
    "irmse": Metric("iRMSE", "1/km", "root of the mean squared error of inverse depth", decimals=2),
    "delta1": Metric("δ1", "%", "returns whose estimate is within a factor of 1.25", 100.0, 2),
    "coverage": Metric(
        "coverage",
        "%",
        "returns that got an estimate, before output.min_confidence; one without counts as an error of its depth",
        100.0,
        2,
    ),
    "coverage50": Metric(
        "in 50%", "%", "returns within the engine's 50% interval (|log error| < b ln 2); should be 50", 100.0, 1
    ),
    "coverage90": Metric(
        "in 90%", "%", "returns within the engine's 90% interval (|log error| < b ln 10); should be 90", 100.0, 1
    ),
    PUBLISHED: Metric(
        "published", "%", "judged returns where depth was published; the others lie on NaN of depth/image", 100.0, 2
    ),
}
"""Metrics in the order in which they are shown."""
