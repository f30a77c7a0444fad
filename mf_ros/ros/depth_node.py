"""The node: dense metric depth of one or more cameras, live. See docs/node.md."""

from __future__ import annotations

import functools
import gc
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import rclpy
from diagnostic_updater import Updater
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_srvs.srv import Trigger

from mf_ros.core.config import Config
from mf_ros.engine import make_engine
from mf_ros.engine.outputs import OUTPUTS
from mf_ros.engine.protocol import DepthEngine
from mf_ros.errors import ConfigError, MfRosError
from mf_ros.ros.advice import runnable
from mf_ros.ros.camera_stream import CameraStream
from mf_ros.ros.diagnostics import (
    QUIET_REASONS,
    CalibrationStatus,
    DepthStatus,
    engine_status,
    input_status,
    refined_status,
)
from mf_ros.ros.inputs import NodeInputs, Received
from mf_ros.ros.parameters import AT_RELOAD, check_change, declare_parameters, read_config, unknown_parameters
from mf_ros.ros.refiner import Refiner
from mf_ros.ros.snapshot import write_snapshot
from mf_ros.ros.types import message_builder
from mf_ros.ros.worker import Worker

NAME = "mf_ros"
FAILED, BAD_SETTINGS = 1, 2
_DIAGNOSTIC_PERIOD_S = 1.0
_SWITCH_INTERVAL_S = 0.0005
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


Transition = Callable[["DepthNode", LifecycleState], TransitionCallbackReturn]


def _told(transition: Transition) -> Transition:
    """A transition that says what it did not expect: ROS passes over an exception in one in silence."""

    @functools.wraps(transition)
    def told(node: DepthNode, state: LifecycleState) -> TransitionCallbackReturn:
        try:
            return transition(node, state)
        except Exception as error:
            node.get_logger().error(f"A fault of mf_ros in {transition.__name__} ({type(error).__name__}: {error}).")
            raise

    return told


class DepthNode(LifecycleNode):  # type: ignore[misc]
    """Lifecycle node around the pipeline.

    Configure reads the parameters, loads the engine and makes the publishers; activate subscribes and starts the
    worker; deactivate stops both and releases the engine.

    Raises:
        rclpy.exceptions.ParameterException: a parameter given at the start has a wrong type or value.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(NAME, **options)
        declare_parameters(self)
        self._config = Config()
        self._engine: Optional[DepthEngine] = None
        self._streams: List[CameraStream] = []
        self._inputs: Optional[NodeInputs] = None
        self._worker: Optional[Worker] = None
        self._refiner = Refiner(lambda config: make_engine(config))
        self._changed: Optional[Config] = None
        self._changed_lock = threading.Lock()
        self._reported: Dict[str, int] = {}
        self._said: Dict[str, str] = {}
        self.add_on_set_parameters_callback(self._on_set_parameters)
        # A group of its own: while one callback of a group waits, no other of that group is called.
        waiting = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, "~/reload_model", self._on_reload_model, callback_group=waiting)
        self.create_service(Trigger, "~/snapshot", self._on_snapshot)
        self._diagnostics = Updater(self, _DIAGNOSTIC_PERIOD_S)
        self._diagnostics.setHardwareID(NAME)
        self._diagnostics.add("inputs", input_status(lambda: self._inputs))
        self._diagnostics.add("engine", engine_status(lambda: self._engine))
        self._diagnostics.add("refined", refined_status(self._refiner))
        self._report_timer: Optional[Any] = None

    # Lifecycle. A transition that fails says why in one sentence and leaves the state as it was.

    @_told
    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Read the parameters, load the engine, advertise."""
        try:
            self._config = read_config(self)
            self._load_engine()
            assert self._engine is not None
            for name in self._config.node.camera_names or ("",):
                # One by one, so that those before one that fails are taken away again.
                self._streams.append(CameraStream(self, name, self._config, self._engine))
        except (MfRosError, rclpy.exceptions.InvalidTopicNameException) as error:
            self.get_logger().error(runnable(f"Not configured: {error}"))
            self._tear_down()
            return TransitionCallbackReturn.FAILURE
        for stream in self._streams:
            self._diagnostics.add(f"{stream.label}depth", DepthStatus(stream))
            self._diagnostics.add(f"{stream.label}calibration", CalibrationStatus(stream))
        described = ", ".join(f"{key} {value}" for key, value in self._engine.describe().items())
        self.get_logger().info(f"Engine {self._engine.name}: {described}")
        return super().on_configure(state)

    @_told
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and begin."""
        try:
            self._config = read_config(self)
            if self._engine is None:
                self._load_engine()
            assert self._engine is not None
            for stream in self._streams:
                stream.restart(self._config, self._engine)
        except MfRosError as error:
            self.get_logger().error(runnable(f"Not activated: {error}"))
            return TransitionCallbackReturn.FAILURE
        self._reported, self._said = {}, {}
        self._worker = Worker([stream.work for stream in self._streams], self._apply_changes, self._on_fault)
        self._inputs = NodeInputs(self, self._config.node, self._streams, self._worker.wake)
        self._report_timer = self.create_timer(self._config.node.report_period_s, self._report)
        result = super().on_activate(state)
        self._worker.start()
        self._refiner.use(self._config, self._streams)
        listed = ", ".join(watch.topic for watch in self._inputs.watches)
        self.get_logger().info(f"Active: waiting for {listed}.")
        return result

    @_told
    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop, unsubscribe, release the engine and with it the memory of the GPU."""
        self._stop()
        return super().on_deactivate(state)

    @_told
    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to how it was before configure."""
        self._tear_down()
        return super().on_cleanup(state)

    @_told
    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Leave nothing behind, from any state."""
        self._tear_down()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition raised: begin again from unconfigured."""
        self._tear_down()
        return super().on_error(state)

    def autostart(self) -> bool:
        """Configure and activate, unless a lifecycle manager does; returns False where one of the two failed."""
        for text in unknown_parameters(self):
            self.get_logger().warning(text)
        if not self.get_parameter("node.autostart").value:
            self.get_logger().info("node.autostart is false: waiting for a lifecycle manager to configure it.")
            return True
        done = TransitionCallbackReturn.SUCCESS
        return bool(self.trigger_configure() == done and self.trigger_activate() == done)

    def destroy_node(self) -> None:
        """Stop the worker before anything that it uses goes."""
        self._tear_down()
        super().destroy_node()

    def _load_engine(self) -> None:
        self._engine = make_engine(self._config.engine)

    def _stop(self) -> None:
        if self._report_timer is not None:
            self.destroy_timer(self._report_timer)
            self._report_timer = None
        if self._worker is not None and not self._worker.stop():
            self.get_logger().warning("The engine has not ended its last image yet; it is left to end by itself.")
        if not self._refiner.stop():
            self.get_logger().info("The engine that refines has not ended its last image; it is left to end by itself.")
        self._worker = None
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None
        self._engine = None
        for stream in self._streams:
            stream.release()
        gc.collect()

    def _tear_down(self) -> None:
        self._stop()
        for stream in self._streams:
            self._diagnostics.removeByName(f"{stream.label}depth")
            self._diagnostics.removeByName(f"{stream.label}calibration")
            stream.destroy()
        self._streams = []

    # Parameters and services.

    def _on_set_parameters(self, changed: List[Parameter]) -> SetParametersResult:
        result = check_change(self, changed, active=self._worker is not None)
        if result.successful and self._worker is not None:
            with self._changed_lock:
                self._changed = read_config(self, changed)
            if any(each.name.startswith(AT_RELOAD) for each in changed):
                self.get_logger().info("engine.* takes effect with the service ~/reload_model.")
        return result

    def _apply_changes(self) -> None:
        """Called by the worker between two images."""
        with self._changed_lock:
            changed, self._changed = self._changed, None
        if changed is not None:
            self._config = changed
            for stream in self._streams:
                stream.configure(changed)
            self._refiner.configure(changed)

    async def _on_reload_model(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load the model in a thread of its own, so that depth goes on meanwhile."""
        wanted = read_config(self)
        loaded: Future = Future(executor=self.executor)

        def load() -> None:
            try:
                loaded.set_result(make_engine(wanted.engine))
            except Exception as error:
                loaded.set_result(error)

        if self._engine is None:
            response.success, response.message = False, "No model is loaded: configure and activate the node."
            return response
        threading.Thread(target=load, daemon=True).start()
        engine = await loaded
        if self._engine is None:
            response.success, response.message = False, "The node was deactivated meanwhile; it loads at activation."
            return response
        if isinstance(engine, Exception):
            response.success, response.message = False, runnable(f"{engine} The model {self._engine.name} stays.")
            self.get_logger().error(response.message)
            return response
        self._engine = engine
        for stream in self._streams:
            stream.use_engine(engine)
        self._refiner.use(wanted, self._streams)
        response.success, response.message = True, f"Depth now comes from {engine.name}."
        self.get_logger().info(response.message)
        return response

    def _on_snapshot(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            messages = [] if self._inputs is None else [*self._inputs.recent(), *self._made()]
            path = write_snapshot(Path(self._config.node.snapshot_dir), messages)
        except MfRosError as error:
            response.success, response.message = False, str(error)
        else:
            response.success, response.message = True, str(path)
        return response

    def _made(self) -> List[Received]:
        """The last results as messages, each with arrays of its own."""
        builder = message_builder(reuse=False)
        return [
            Received(stream.publishers[output].topic_name, stream.last_ns, *stream.message(builder, output))
            for stream in self._streams
            if stream.last is not None
            for output in OUTPUTS
        ]

    # Reports.

    def _report(self) -> None:
        """Say what is wrong: once when it begins, and again when it changes."""
        found: Dict[str, str] = {}
        if self._inputs is not None:
            found.update({f"input {number}": text for number, text in enumerate(self._inputs.silent())})
        for stream in self._streams:
            for reason, count in stream.pipeline.dropped.counts.items():
                key = f"{stream.prefix}{reason}"
                new, self._reported[key] = count - self._reported.get(key, 0), count
                if new > 0 and reason not in QUIET_REASONS:
                    text = stream.pipeline.dropped.texts[reason]
                    found[key] = f"{stream.prefix}{new} images without depth, {reason}: {text}"
            health = stream.health.report()
            if health.warning:
                found[f"{stream.prefix}health"] = health.warning
        for key, text in found.items():
            if _kind(text) != self._said.get(key):
                self.get_logger().warning(runnable(text))
        self._said = {key: _kind(text) for key, text in found.items()}

    def _on_fault(self, error: Exception) -> None:
        self.get_logger().error(
            f"An image was lost to a fault of mf_ros ({type(error).__name__}: {error}); please report it."
        )
        logging.getLogger(__name__).debug("fault", exc_info=error)


def _kind(text: str) -> str:
    """A sentence without its numbers, which change while what it says stays."""
    return "".join(char for char in text if not char.isdigit())


class _ToRos(logging.Handler):
    """Log records of the library as those of the node."""

    def __init__(self, node: DepthNode) -> None:
        super().__init__(logging.INFO)
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        if not rclpy.ok():
            return  # nobody can be told any more
        text = runnable(record.getMessage())
        # Each level has a line of its own, because a ROS logger refuses two levels from one line.
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        else:
            self._logger.info(text)


def _spin(node: DepthNode) -> None:
    """Call back until a signal or someone else shuts ROS down."""
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except ExternalShutdownException:
        pass
    except Exception:
        # A callback that publishes while the signal comes finds a context that is gone.
        if rclpy.ok():
            raise


def main(args: Optional[List[str]] = None) -> int:
    """Run the node until it is shut down; returns the exit code."""
    # ROS itself ends the spinning on a signal. Launch and terminal both send one, and Python's own answer to the
    # second, an exception at any place, would break into the end.
    for number in _SIGNALS:
        signal.signal(number, lambda number, frame: None)
    # Of the threads for messages and for depth, the one that waits for the other gets its turn soon.
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    rclpy.init(args=args)
    node: Optional[DepthNode] = None
    code = 0
    try:
        node = DepthNode()
        read_config(node)
        library = logging.getLogger("mf_ros")
        library.addHandler(_ToRos(node))
        library.setLevel(logging.INFO)
        if not node.autostart():
            return FAILED
        _spin(node)
    except (ParameterException, ConfigError) as error:
        print(f"mf_ros: a parameter cannot be used: {error}", file=sys.stderr)
        code = BAD_SETTINGS
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
        # Python takes its own handlers back at its end, but leaves a signal that is ignored alone.
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    return code


if __name__ == "__main__":
    sys.exit(main())
