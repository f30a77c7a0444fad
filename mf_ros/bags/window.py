"""A part of a recording that looks like a whole one."""

from __future__ import annotations

from itertools import chain
from typing import Iterable, Iterator, List, Optional

from mf_ros.bags.reader import RecordedMessage, Recording
from mf_ros.core.topics import CAMERA_INFO_TYPE, TF_TYPES, is_static
from mf_ros.errors import BagError

_FIRST_LOOK_NS = 2_000_000_000


class RecordingWindow(Recording):
    """The messages of a recording from ``start_s`` on, for ``duration_s``.

    What was logged before the window and holds inside it is read too, first: fixed transforms and the last calibration.
    The window shares the recording's files: close one of the two.

    Args:
        recording: the open recording.
        start_s: beginning of the window, seconds after the recording's.
        duration_s: length of the window, seconds; None reads to the end.

    Raises:
        BagError: the window lies outside the recording, or has no length.
    """

    def __init__(self, recording: Recording, start_s: float = 0.0, duration_s: Optional[float] = None) -> None:
        # Nothing is opened anew, so the recording's own construction is not repeated.
        self.__dict__.update(recording.__dict__)
        if not 0.0 <= start_s <= recording.duration_s or (duration_s is not None and not duration_s > 0.0):
            raise BagError(
                f"{recording.name} is {recording.duration_s:.1f} s long: a start of {start_s:g} s with a duration of "
                f"{'the rest' if duration_s is None else f'{duration_s:g} s'} reads nothing of it."
            )
        self._whole_start_ns = recording.start_ns
        self.start_ns = recording.start_ns + round(start_s * 1e9)
        if duration_s is not None:
            self.end_ns = min(recording.end_ns, self.start_ns + round(min(duration_s, recording.duration_s) * 1e9))

    def messages(
        self,
        topics: Optional[Iterable[str]] = None,
        *,
        start_ns: Optional[int] = None,
        stop_ns: Optional[int] = None,
    ) -> Iterator[RecordedMessage]:
        """As a recording's, inside the window; what was logged before it and holds in it comes first.

        Nothing from before is read when ``start_ns`` is given.
        """
        wanted = None if topics is None else list(topics)
        first = self.start_ns if start_ns is None else max(start_ns, self.start_ns)
        last = self.end_ns + 1 if stop_ns is None else min(stop_ns, self.end_ns + 1)
        inside = super().messages(wanted, start_ns=first, stop_ns=last)
        if start_ns is not None:
            return inside
        held = [topic for topic in self.topics if topic.count and (wanted is None or topic.name in wanted)]
        fixed = [topic.name for topic in held if topic.msgtype in TF_TYPES and is_static(topic.name)]
        infos = [topic.name for topic in held if topic.msgtype == CAMERA_INFO_TYPE]
        before = super().messages(fixed, stop_ns=self.start_ns) if fixed else ()
        return chain(before, self._last_before(infos), inside)

    def latched(self, topics: Iterable[str]) -> Iterator[RecordedMessage]:
        """As a recording's, from the whole recording; what holds at the window's beginning comes last."""
        names = list(topics)
        if not names:
            return iter(())
        rest = super().messages(names, start_ns=self.start_ns)
        return chain(rest, super().messages(names, stop_ns=self.start_ns))

    def _last_before(self, names: List[str]) -> Iterator[RecordedMessage]:
        """The last message of each topic before the window, looked for in ever longer steps back."""
        for name in names:
            stop, step = self.start_ns, _FIRST_LOOK_NS
            while stop > self._whole_start_ns:
                start = max(stop - step, self._whole_start_ns)
                last = None
                for message in super().messages([name], start_ns=start, stop_ns=stop):
                    last = message
                if last is not None:
                    yield last
                    break
                stop, step = start, 2 * step
