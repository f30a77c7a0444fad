"""Procedural training scenes: pictures with true depth and realistic LiDAR sweeps, made from seeds."""

from __future__ import annotations

from mf_training.scenes.scene import make_scene, make_scenes
from mf_training.scenes.store import SceneStore
from mf_training.scenes.types import KINDS, LidarScan, Scene, SceneConfig

__all__ = ["KINDS", "LidarScan", "Scene", "SceneConfig", "SceneStore", "make_scene", "make_scenes"]
