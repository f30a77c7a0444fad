"""Dense metric depth and point clouds from a camera and a sparse LiDAR."""

__version__ = "0.1.0"
