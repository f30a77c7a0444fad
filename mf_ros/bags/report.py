"""The report of a replay: one HTML file with pictures and numbers, that needs no network and no script."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from mf_ros.bags import report_pictures as pictures
from mf_ros.bags.pages import page_template
from mf_ros.bags.report_figures import Figure, figures_of, uncertainty_line
from mf_ros.bags.report_texts import ADVICE, METRICS, STAGES
from mf_ros.bags.samples import ReplayReport, Sample
from mf_ros.bags.whole_file import write_whole
from mf_ros.core.config import Config
from mf_ros.core.settings import config_from_mapping, settings
from mf_ros.core.types import AnyArray
from mf_ros.evaluation.metrics import RANGES_M

REPORT_NAME = "report.html"
MAX_BYTES = 5_500_000

_TEMPLATE = Path(__file__).with_name("templates") / REPORT_NAME
_QUALITIES = (88, 78, 66, 50, 35)
_MAX_FRAMES = 5
_TALL = 1.15
_OTHER_ADVICE = "See the message."


@dataclass(frozen=True)
class FrameView:
    """One sample frame: a heading, facts, and figures as (figure, data URI)."""

    heading: str
    facts: Tuple[str, ...]
    figures: Tuple[Tuple[Figure, str], ...]


def write_report(report: ReplayReport, out_dir: Union[str, Path]) -> Path:
    """Write ``report.html`` into a directory, so that the file is either whole or not there.

    Args:
        report: what ``replay`` returned, complete or interrupted.
        out_dir: an existing directory; a report in it is replaced.

    Raises:
        BagError: it cannot be written.
    """
    path = Path(out_dir) / REPORT_NAME
    write_whole(path, render_report(report))
    return path


def render_report(report: ReplayReport) -> str:
    """The report as the text of one self-contained HTML file of at most about ``MAX_BYTES``."""
    summary, samples = report.summary, _chosen(report.samples)
    scales = pictures.scales_of(samples)
    wide = not samples or samples[0].image.shape[1] > _TALL * samples[0].image.shape[0]
    page = page_template(_TEMPLATE).render(
        name=summary["recording"],
        version=summary["version"],
        state=_state(summary),
        verdict=_verdict(summary),
        tiles=_tiles(summary),
        troubles=_troubles(summary),
        columns=2 if wide else 3,
        frames=_frames(samples, scales, summary),
        uncertainty=uncertainty_line(samples, summary["accuracy"]),
        accuracy=summary["accuracy"],
        accuracy_rows=_accuracy_rows(summary["accuracy"]),
        distance_rows=_distance_rows(samples),
        scored_samples=sum(bool(len(each.error_m)) for each in samples),
        stages=_stages(summary["latency_ms"]),
        drops=_reasons(summary["dropped"], summary["dropped_messages"], summary["frames_in"]),
        warnings=_reasons(summary["warnings"], summary["warning_messages"], 0),
        inputs=_inputs(summary, samples),
        frame_id=((summary.get("inputs") or {}).get("camera") or {}).get("frame_id", ""),
        written=summary.get("messages_written") or {},
        engine=summary["engine"],
        engine_details=summary["engine_details"],
        changed=_changed_settings(summary),
        all_settings=_all_settings(summary),
    )
    return str(page)


def _chosen(samples: Sequence[Sample]) -> Tuple[Sample, ...]:
    """As many as a reader looks at, evenly spread."""
    indices = np.linspace(0, len(samples) - 1, min(len(samples), _MAX_FRAMES)).round().astype(int)
    return tuple(samples[index] for index in indices)


def _state(summary: Mapping[str, Any]) -> str:
    """Whether the run went through: "failed", "partly" or "complete"; no judgement of the accuracy."""
    if not summary["frames_out"]:
        return "failed"
    whole = not (summary["dropped"] or summary["interrupted"] or summary["damage"])
    return "complete" if whole else "partly"


def _verdict(summary: Mapping[str, Any]) -> str:
    """The whole run in one line."""
    counts = f"{summary['frames_out']} of {summary['frames_in']} images became depth (engine {summary['engine']})"
    if not summary["frames_out"]:
        most = next(iter(summary["dropped"]), None)
        return f"No depth: {counts}" + (f", most were dropped for {most}." if most else ": there were no images.")
    parts = [counts]
    accuracy = summary["accuracy"]
    if accuracy:
        parts.append(
            f"on {accuracy['held_out']} held out, {_count(accuracy['frames'], 'frame')} scored: "
            f"MAE {accuracy['mae']:.2f} m, RMSE {accuracy['rmse']:.2f} m, median {accuracy['median']:.3f} m"
        )
    else:
        parts.append("accuracy was not measured")
    latency = summary["latency_ms"]
    parts.append(f"latency {_ms(latency['p50'])} median, {_ms(latency['p95'])} p95")
    if summary.get("real_time_factor"):
        parts.append(f"real-time factor {summary['real_time_factor']:.2f}")
    return "; ".join(parts) + "."


def _tiles(summary: Mapping[str, Any]) -> List[Tuple[str, str, str]]:
    """Title, number and small print of the figures at the top."""
    accuracy, latency = summary["accuracy"], summary["latency_ms"]
    dropped = sum(summary["dropped"].values())
    tiles = [
        ("Frames", f"{summary['frames_out']} / {summary['frames_in']}", f"depth out / images in, {dropped} dropped")
    ]
    if accuracy:
        scored = f"{_count(accuracy['frames'], 'frame')} scored on {accuracy['held_out']}"
        tiles.append(("MAE, held out", f"{accuracy['mae']:.2f} m", scored))
        tiles.append(("Median error", f"{accuracy['median']:.3f} m", f"RMSE {accuracy['rmse']:.2f} m"))
    else:
        tiles.append(("Accuracy", "–", "not measured"))
    if summary["frames_out"]:
        spread = f"p95 {_ms(latency['p95'])}, decoding to depth"
        if summary.get("recorded_s"):
            spread += f"; a frame came every {_ms(1e3 * summary['recorded_s'] / summary['frames_out'])}"
        tiles.append(("Latency, median", _ms(latency["p50"]), spread))
    factor = summary.get("real_time_factor")
    if factor:
        spent = f"{summary['recorded_s']:.1f} s recorded in {summary['wall_s']:.1f} s, scoring and writing included"
        tiles.append(("Real-time factor", f"{factor:.2f}", spent))
    return tiles


def _troubles(summary: Mapping[str, Any]) -> List[str]:
    """What the reader must know before the pictures."""
    troubles = []
    if summary["interrupted"]:
        troubles.append("The run was interrupted: everything here covers the frames done until then.")
    if summary["damage"]:
        troubles.append(f"The recording is damaged: {summary['damage']}")
    return troubles


def _frames(samples: Sequence[Sample], scales: pictures.Scales, summary: Mapping[str, Any]) -> List[FrameView]:
    """Sample frames, as sharp and as many as the size of the file allows."""
    config = config_from_mapping(summary["config"]) if summary.get("config") else Config()
    drawn = [figures_of(each, scales, config.cloud, samples) for each in samples]
    encoded: List[List[str]] = []
    for quality in _QUALITIES:
        encoded = [[pictures.data_uri(figure.picture, quality) for figure in figures] for figures in drawn]
        if sum(len(uri) for uris in encoded for uri in uris) <= MAX_BYTES:
            break
    views, used = [], 0
    for sample, figures, uris in zip(samples, drawn, encoded, strict=True):
        used += sum(len(uri) for uri in uris)
        if used > MAX_BYTES:
            break
        heading, facts = _heading(sample, summary.get("first_stamp_ns"))
        views.append(FrameView(heading, facts, tuple(zip(figures, uris, strict=True))))
    return views


def _heading(sample: Sample, first_stamp_ns: Optional[int]) -> Tuple[str, Tuple[str, ...]]:
    seconds = (sample.stamp_ns - (first_stamp_ns or sample.stamp_ns)) / 1e9
    facts = []
    if sample.returns:
        facts = [f"{sample.returns} visible returns; removed: {sample.hidden} hidden, {sample.lonely} lonely"]
    if sample.metrics:
        metrics = sample.metrics
        facts.append(
            f"held out: MAE {metrics['mae']:.2f} m, RMSE {metrics['rmse']:.2f} m, median {metrics['median']:.3f} m"
        )
    if "total" in sample.timings_ms:
        facts.append(_ms(sample.timings_ms["total"]))
    return f"Frame {sample.number} at {seconds:.2f} s", tuple(facts)


def _accuracy_rows(accuracy: Optional[Mapping[str, Any]]) -> List[Tuple[str, str, str, str]]:
    """Title, value, unit and meaning of each metric."""
    rows = []
    for name, metric in METRICS.items():
        value = (accuracy or {}).get(name)
        if value is not None and math.isfinite(value):
            rows.append((metric.title, f"{metric.factor * value:.{metric.decimals}f}", metric.unit, metric.meaning))
    return rows


def _distance_rows(samples: Sequence[Sample]) -> List[Tuple[str, str, str, str, str]]:
    """Distance, returns, median, MAE and bias over the sample frames; a miss counts with its full depth."""
    parts = [(each.truth_m, each.error_m) for each in samples if len(each.truth_m)]
    if not parts:
        return []
    truth, error = (np.concatenate([part[index] for part in parts]).astype(np.float64) for index in (0, 1))
    size = np.where(np.isfinite(error), np.abs(error), truth)
    return [_distance_row(f"{low:g} to {high:g} m", at, size, error) for low, high, at in _bands(truth) if at.any()]


def _bands(truth: AnyArray) -> List[Tuple[float, float, AnyArray]]:
    return [(low, high, (truth >= low) & (truth < high)) for low, high in RANGES_M]


def _distance_row(name: str, at: AnyArray, size: AnyArray, error: AnyArray) -> Tuple[str, str, str, str, str]:
    signed = error[at][np.isfinite(error[at])]
    bias = f"{signed.mean():+.3f}" if len(signed) else "–"
    return name, str(int(at.sum())), f"{np.median(size[at]):.3f}", f"{size[at].mean():.3f}", bias


def _stages(latency: Mapping[str, Any]) -> List[Dict[str, Any]]:
    """Latency by stage, with the lengths of the bars in percent of the longest."""
    stages: Dict[str, Any] = dict(latency.get("stages") or {})
    if _known(latency.get("p50")):
        stages["total"] = {"p50": latency["p50"], "p95": latency["p95"]}
    longest = max((value["p95"] for value in stages.values() if _known(value["p95"])), default=0.0) or 1.0
    return [
        {
            "name": name,
            "meaning": STAGES.get(name, "decoding to depth" if name == "total" else ""),
            "p50": _ms(value["p50"]),
            "p95": _ms(value["p95"]),
            "bar50": 100.0 * value["p50"] / longest,
            "bar95": 100.0 * value["p95"] / longest,
        }
        for name, value in stages.items()
        if _known(value["p50"]) and _known(value["p95"])
    ]


def _reasons(counts: Mapping[str, int], texts: Mapping[str, str], total: int) -> List[Dict[str, str]]:
    return [
        {
            "name": reason,
            "count": f"{count}" + (f" ({100.0 * count / total:.0f}%)" if total else ""),
            "text": texts.get(reason, ""),
            "advice": ADVICE.get(reason, _OTHER_ADVICE),
        }
        for reason, count in counts.items()
    ]


def _inputs(summary: Mapping[str, Any], samples: Sequence[Sample]) -> List[Tuple[str, str]]:
    """What went in, as name and value."""
    topics, seen = summary["topics"], summary.get("inputs") or {}
    image, camera = seen.get("image") or {}, seen.get("camera")
    kind = " ".join(each for each in (str(topics["image_type"]).rpartition("/")[2], image.get("encoding", "")) if each)
    rows = [("Image", f"{topics['image']} ({kind}{', rectified' if topics.get('rectified') else ''})")]
    rows.append(("Camera info", str(topics["camera_info"])))
    if camera:
        rows += _camera_rows(camera, summary)
    lidars = {each["topic"]: each for each in seen.get("lidars") or []}
    offsets = summary.get("camera_lidar_offset_ms") or {}
    for index, topic in enumerate(topics["points"]):
        rows += _lidar_rows(str(topic), lidars.get(topic), offsets.get(f"lidar_{index}"))
    rows.append(("Motion compensation", _deskewed(summary, list(lidars.values()))))
    if samples:
        returns = float(np.median([each.returns for each in samples]))
        hidden, lonely = np.median([(each.hidden, each.lonely) for each in samples], axis=0)
        text = f"{returns:.0f} visible, {hidden:.0f} hidden, {lonely:.0f} lonely (medians of the samples)"
        rows.append(("Returns in the image", text))
    transforms = [str(each) for each in (*topics.get("tf", ()), *topics.get("tf_static", ()))]
    rows.append(("Transforms", ", ".join(transforms) or "none"))
    rows.append(("Damage", str(summary["damage"] or "none found")))
    return rows


def _camera_rows(camera: Mapping[str, Any], summary: Mapping[str, Any]) -> List[Tuple[str, str]]:
    fx, fy, cx, cy = (camera["K"][index] for index in (0, 4, 2, 5))
    output = (summary.get("config") or {}).get("output") or {}
    done = ["rectified"] if output.get("rectify") else []
    if output.get("scale", 1.0) != 1.0:
        done.append(f"scaled by {output['scale']:g}")
    suffix = f" ({', '.join(done)} for processing)" if done else ""
    model = camera["distortion_model"]
    coefficients = ", ".join(f"{value:.4g}" for value in camera["D"])
    return [
        ("Camera", f"{camera['width']} x {camera['height']} px{suffix}, frame {camera['frame_id']}"),
        ("Intrinsics", f"fx {fx:.1f}, fy {fy:.1f}, cx {cx:.1f}, cy {cy:.1f} px"),
        ("Distortion", f"{model}: {coefficients}" if model else "none (pinhole)"),
    ]


def _lidar_rows(
    topic: str, seen: Optional[Mapping[str, Any]], offset: Optional[Mapping[str, Any]]
) -> List[Tuple[str, str]]:
    text = topic
    if seen:
        rings = f"{seen['rings']} rings" if seen["rings"] else "no rings"
        time = "with" if seen["has_time"] else "without"
        text += (
            f" ({seen['points']} points in the first sweep, {rings}, {time} times per point, frame {seen['frame_id']})"
        )
    rows = [("LiDAR", text)]
    if offset and _known(offset.get("p50")):
        rows.append(
            ("Camera-LiDAR offset", f"{_ms(offset['p50'])} median, {_ms(offset['p95'])} p95 between the stamps")
        )
    return rows


def _deskewed(summary: Mapping[str, Any], lidars: Sequence[Mapping[str, Any]]) -> str:
    lidar = (summary.get("config") or {}).get("lidar") or {}
    if not lidar.get("deskew", True):
        return "off (lidar.deskew)"
    if lidars and not any(each["has_time"] for each in lidars):
        return "not possible: the points have no times; points of one sweep count as measured at once"
    missing = summary["warnings"].get("not_deskewed", 0)
    if missing:
        return f"missing in {_count(missing, 'image')} of {summary['frames_in']}: the motion was not known"
    return f"done, through frame {lidar.get('fixed_frame', '')}" if lidars else "unknown"


def _changed_settings(summary: Mapping[str, Any]) -> List[Tuple[str, str, str]]:
    """Name, value and default of the settings that are not at their default."""
    defaults = {
        key: str(list(each.default) if isinstance(each.default, tuple) else each.default)
        for key, each in settings().items()
    }
    return [(key, value, defaults[key]) for key, value in _all_settings(summary) if value != defaults.get(key, value)]


def _all_settings(summary: Mapping[str, Any]) -> List[Tuple[str, str]]:
    groups = summary.get("config") or {}
    return [(f"{group}.{name}", str(value)) for group, values in groups.items() for name, value in values.items()]


def _known(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _ms(value: Any) -> str:
    if not _known(value):
        return "–"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms" if value >= 1 else f"{value:.2f} ms"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
