"""Procedural scenes seen by a simulated camera and a spinning LiDAR, written as a real recording."""

from __future__ import annotations

from mf_ros.simulate.recording import SimulationSummary, simulate

__all__ = ["SimulationSummary", "simulate"]
