"""Geometry and conditioning: one camera frame and LiDAR sweeps in, sparse depth and point clouds out.

NumPy and OpenCV only: nothing here knows ROS or torch, so live, replay and training share it.
"""
