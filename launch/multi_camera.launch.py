"""Starts one depth node for several cameras, which share its model and the LiDARs. docs/node.md explains the arguments.

The topics of camera NAME are /NAME/image_raw and /NAME/camera_info; image_topic and camera_info_topic name others, with
{camera} in the place of the name. All other arguments are those of depth.launch.py.
"""

from pathlib import Path

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource


def generate_launch_description():
    """The arguments that differ, and the launch file for one camera."""
    return LaunchDescription(
        [
            DeclareLaunchArgument("cameras", default_value="front,rear", description="Their names, with commas."),
            DeclareLaunchArgument(
                "image_topic",
                default_value="/{camera}/image_raw",
                description="Topic of each camera's image, with {camera} in the place of its name.",
            ),
            IncludeLaunchDescription(PythonLaunchDescriptionSource(str(Path(__file__).parent / "depth.launch.py"))),
        ]
    )
