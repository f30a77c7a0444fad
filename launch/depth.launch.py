"""Starts the depth node; on request plays a recording for it and opens RViz. docs/node.md explains the arguments."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import yaml
from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, ExecuteProcess, LogInfo, OpaqueFunction, Shutdown, TimerAction
from launch.logging import launch_config
from launch_ros.actions import LifecycleNode, Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.ros_adapters import get_ros_node
from lifecycle_msgs.msg import State
from lifecycle_msgs.srv import GetState

# Beside this folder in the installed package and in its sources.
CONFIG = Path(__file__).parents[1] / "config"

SWITCH = ["true", "false"]
AS_FILE = "; empty: as params_file says"
# Name, default, description, and the values that are allowed where not all are.
ARGUMENTS = [
    ("namespace", "", "Namespace of the node and of its topics.", []),
    ("params_file", str(CONFIG / "depth.yaml"), "YAML file with the node's parameters.", []),
    ("use_sim_time", "", f"Take the time from /clock; a bag sets it{AS_FILE}.", ["", *SWITCH]),
    ("autostart", "", f"Configure and activate the node at the start{AS_FILE}.", ["", *SWITCH]),
    ("log_level", "info", "Least severity that is logged.", ["debug", "info", "warn", "error", "fatal"]),
    ("python", "", "Interpreter that runs the node, as of a venv; empty: the first python3 on the PATH.", []),
    ("image_topic", "", "Topic of the image, without /compressed; empty: the bag's, else image.", []),
    ("camera_info_topic", "", "Topic of the calibration; empty: camera_info beside the image.", []),
    ("points_topic", "", "Topic of the LiDAR, several with commas; empty: the bag's, else as params_file says.", []),
    (
        "image_transport",
        "",
        "raw or compressed; empty: the bag's, else as params_file says.",
        ["", "raw", "compressed"],
    ),
    ("cameras", "", "Names of several cameras, with commas; {camera} in the camera's topics stands for each.", []),
    (
        "engine",
        "",
        f"auto, onnx, torch, classical, or a published model's transformers, marigold or flux{AS_FILE}.",
        ["", "auto", "onnx", "torch", "classical", "transformers", "marigold", "flux"],
    ),
    ("model", "", f"Shipped model, folder that mf-ros export wrote, or a published model{AS_FILE}.", []),
    ("quality", "", f"Speed against accuracy: fast, balanced or best{AS_FILE}.", ["", "fast", "balanced", "best"]),
    (
        "refine",
        "",
        f"Second engine for some images: transformers, marigold or flux{AS_FILE}.",
        ["", "transformers", "marigold", "flux"],
    ),
    ("device", "", f"auto, cpu or cuda{AS_FILE}.", ["", "auto", "cpu", "cuda"]),
    ("bag", "", "Recording to play once the node is active: a rosbag2 folder, .mcap or .db3.", []),
    ("bag_rate", "1.0", "Speed of the recording.", []),
    ("bag_loop", "false", "Play the recording again and again.", SWITCH),
    ("rviz", "false", "Open RViz.", SWITCH),
    ("fixed_frame", "", "Frame in which RViz shows everything; empty: one of the bag's, else base_link.", []),
]

# Time for subscribers to find the recording's publishers before the first message, seconds.
DISCOVERY_S = 2.0
POLL_S = 0.25
# The topics that config/rviz/depth.rviz names for what the node receives.
RVIZ_IMAGE = "/camera/image_raw"
RVIZ_POINTS = "/points"


def generate_launch_description():
    """Declare the arguments; everything else depends on their values."""
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text, choices=choices or None)
        for name, default, text, choices in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    """Check the arguments before anything runs, then start the node and what was asked for with it."""
    given = {name: context.launch_configurations[name].strip() for name, _, _, _ in ARGUMENTS}
    params_file = Path(given["params_file"]).expanduser()
    if not params_file.is_file():
        raise RuntimeError(f"params_file: there is no file {params_file}")
    bag = checked_bag(given) if given["bag"] else None
    package_or_fail("mf_ros", "source the workspace, or add the environment to AMENT_PREFIX_PATH")
    if given["rviz"] == "true":
        package_or_fail("rviz2", "sudo apt-get install ros-$ROS_DISTRO-rviz2, or leave rviz:=true out")
    if bag:
        given["use_sim_time"] = given["use_sim_time"] or "true"
        if not given["cameras"]:
            given = {**given, **look_into(bag, given)}
    node = depth_node(given, params_file)
    actions = [node]
    if given["rviz"] == "true":
        actions.append(rviz(given))
    if bag:
        actions.append(when_active(node, [LogInfo(msg=f"The node is active: playing {bag}"), playback(bag, given)]))
    return actions


def package_or_fail(package, advice):
    """Raise one sentence where a package is missing."""
    try:
        get_package_prefix(package)
    except PackageNotFoundError as error:
        raise RuntimeError(f"The package {package} is not found: {advice}") from error


def checked_bag(given):
    """The path of a recording that ros2 bag can play as it is asked for."""
    bag, rate = Path(given["bag"]).expanduser(), given["bag_rate"]
    if not bag.exists():
        raise RuntimeError(f"bag: there is no recording {bag}")
    if bag.suffix == ".bag":
        raise RuntimeError(f"bag: {bag} is a ROS 1 bag, which ros2 bag does not play: use mf-ros replay, or convert it")
    if bag.is_dir() and not (bag / "metadata.yaml").is_file():
        raise RuntimeError(f"bag: {bag} has no metadata.yaml: name the file in it, or run ros2 bag reindex {bag}")
    if not re.fullmatch(r"\d*\.?\d+", rate) or float(rate) == 0.0:
        raise RuntimeError(f"bag_rate: {rate} is not a speed; 1.0 is that of the recording, 0.5 half of it")
    package_or_fail("ros2bag", "sudo apt-get install ros-$ROS_DISTRO-rosbag2 to play recordings")
    return bag


def look_into(bag, given):
    """The arguments that the recording decides.

    It is done by the node's interpreter, which has mf_ros and what it needs; this one need not.
    """
    named = [stream_of(given["image_topic"]), given["camera_info_topic"], given["points_topic"]]
    if given["image_transport"] == "compressed" and named[0]:
        named[0] += "/compressed"
    command = [given["python"] or "python3", "-m", "mf_ros.ros.recorded", str(bag.resolve()), *named]
    # In a folder of its own, because -m looks for modules in the current one first.
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        # 2 is a sentence about the recording; anything else is about the interpreter.
        who = "" if done.returncode == 2 else f"{command[0]} cannot look into it: "
        raise RuntimeError(f"bag: {who}{(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    recorded = json.loads(done.stdout)
    return {
        "image_topic": recorded["image"],
        "camera_info_topic": recorded["camera_info"],
        "points_topic": recorded["points"],
        "image_transport": given["image_transport"] or recorded["image_transport"],
        "rectified": "true" if recorded["rectified"] else "",
        "fixed_frame": given["fixed_frame"] or recorded["fixed_frame"],
    }


def depth_node(given, params_file):
    """The node, with what was given on top of its parameter file; everything ends when it ends."""
    texts = {
        "node.image_transport": given["image_transport"],
        "engine.name": given["engine"],
        "engine.model": given["model"],
        "engine.quality": given["quality"],
        "engine.refine": given["refine"],
        "engine.device": given["device"],
    }
    overrides = {name: ParameterValue(value, value_type=str) for name, value in texts.items() if value}
    switches = {
        "use_sim_time": given["use_sim_time"],
        "node.autostart": given["autostart"],
        "node.rectified_input": given.get("rectified", ""),
    }
    for name, value in switches.items():
        if value:
            overrides[name] = value == "true"
    for name, value in (("node.points_topics", given["points_topic"]), ("node.camera_names", given["cameras"])):
        if value:
            overrides[name] = split(value)
    for topic in played(given) if given["bag"] else []:
        overrides[f"qos_overrides.{topic}.subscription.reliability"] = "reliable"
    return LifecycleNode(
        package="mf_ros",
        executable="depth_node",
        name="mf_ros",
        namespace=given["namespace"],
        prefix=shlex.quote(given["python"]) if given["python"] else None,
        parameters=[str(params_file), overrides] if overrides else [str(params_file)],
        remappings=remappings(given),
        ros_arguments=["--log-level", given["log_level"]],
        output="screen",
        on_exit=[OpaqueFunction(function=end)],
    )


def end(context):
    """End the rest with the node, unless it is ending already, which must not be asked for twice."""
    return [] if context.is_shutdown else [Shutdown(reason="the depth node ended")]


def remappings(given):
    """The node's names of the camera topics and the topics they stand for."""
    cameras = split(given["cameras"])
    image = stream_of(given["image_topic"])
    info = given["camera_info_topic"] or (image and sibling(image))
    found = []
    for camera in cameras or [""]:
        prefix = f"{camera}/" if camera else ""
        for name, topic in (("image", image), ("camera_info", info)):
            if camera and topic and "{camera}" not in topic:
                raise RuntimeError(f"{name}_topic is {topic} for all cameras: put {{camera}} where they differ")
            if topic:
                found.append((prefix + name, topic.replace("{camera}", camera)))
        if image:
            found.append((f"{prefix}image/compressed", image.replace("{camera}", camera) + "/compressed"))
    return found


def rviz(given):
    """RViz with config/rviz/depth.rviz, in which the names of topics and frame are those of this start."""
    config = yaml.safe_load((CONFIG / "rviz" / "depth.rviz").read_text())
    camera = (split(given["cameras"]) or [""])[0]
    prefix = f"{camera}/" if camera else ""
    image = stream_of(given["image_topic"]).replace("{camera}", camera) or f"{prefix}image"
    if given["image_transport"] == "compressed":
        image += "/compressed"
    received = {RVIZ_IMAGE: image, RVIZ_POINTS: (split(given["points_topic"]) or ["points"])[0]}
    frame = given["fixed_frame"] or "base_link"
    manager = config["Visualization Manager"]
    manager["Global Options"]["Fixed Frame"] = frame
    for display in manager["Displays"]:
        if "Topic" in display:
            shown = display["Topic"]["Value"]
            display["Topic"]["Value"] = absolute(received.get(shown, prefix + shown[1:]), given["namespace"])
    path = Path(launch_config.log_dir) / "depth.rviz"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return Node(
        package="rviz2",
        executable="rviz2",
        name="rviz2",
        namespace=given["namespace"],
        arguments=["-d", str(path), "-f", frame],
        parameters=[{"use_sim_time": given["use_sim_time"] == "true"}],
    )


def playback(bag, given):
    """The recording with its clock; the node stays when it ends."""
    qos = Path(launch_config.log_dir) / "playback_qos.yaml"
    profile = {"history": "keep_last", "depth": 10, "reliability": "reliable"}
    qos.write_text(yaml.safe_dump(dict.fromkeys(played(given), profile)))
    storage = {".mcap": ["--storage", "mcap"], ".db3": ["--storage", "sqlite3"]}.get(bag.suffix, [])
    loop = ["--loop"] if given["bag_loop"] == "true" else []
    options = ["--clock", "--rate", given["bag_rate"], "--delay", str(DISCOVERY_S), "--disable-keyboard-controls"]
    options += ["--qos-profile-overrides-path", str(qos)]
    return ExecuteProcess(cmd=["ros2", "bag", "play", str(bag), *storage, *options, *loop], output="screen")


def played(given):
    """Full names of the topics that a recording has for the node, which are played and received without loss."""
    topics = [topic for _, topic in remappings(given)] + split(given["points_topic"])
    return [absolute(topic, given["namespace"]) for topic in topics]


def when_active(node, actions):
    """Actions that wait until a lifecycle node is active.

    It is asked for its state, because the message of a transition is lost when it comes before discovery is done.
    """
    asked = {}

    def ask(context):
        if "client" not in asked:
            asked["client"] = get_ros_node(context).create_client(GetState, f"{node.node_name}/get_state")
        answer = asked.pop("answer", None)
        if answer is not None and answer.done():
            if answer.result().current_state.id == State.PRIMARY_STATE_ACTIVE:
                return actions
            answer = None
        if answer is None and asked["client"].service_is_ready():
            answer = asked["client"].call_async(GetState.Request())
        asked["answer"] = answer
        return [TimerAction(period=POLL_S, actions=[OpaqueFunction(function=ask)])]

    return OpaqueFunction(function=ask)


def split(names):
    """The names in a list with commas."""
    return [name for name in re.split(r"[,\s]+", names) if name]


def stream_of(image_topic):
    """An image topic without its transport."""
    return image_topic[: -len("/compressed")] if image_topic.endswith("/compressed") else image_topic


def sibling(image_topic):
    """The camera_info topic beside an image topic."""
    return "/".join([*image_topic.split("/")[:-1], "camera_info"])


def absolute(topic, namespace):
    """The full name of a topic of a node in a namespace."""
    return topic if topic.startswith("/") else "/" + "/".join(part for part in (namespace.strip("/"), topic) if part)
