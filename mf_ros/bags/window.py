"""A part of a recording that looks like a whole one."""

from __future__ import annotations

from itertools import chain
from typing import Iterable, Iterator, Optional

from mf_ros.bags.reader import RecordedMessage, Recording
from mf_ros.bags.topics import TF_TYPES
from mf_ros.errors import BagError


class RecordingWindow(Recording):
    """The messages of a recording from ``start_s`` on, for ``duration_s``.

    Fixed transforms that were logged before the window are read too, first, because they hold inside it as well.
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
        """As a recording's, inside the window; the fixed transforms that were logged before it come first."""
        wanted = None if topics is None else list(topics)
        first = self.start_ns if start_ns is None else max(start_ns, self.start_ns)
        last = self.end_ns + 1 if stop_ns is None else min(stop_ns, self.end_ns + 1)
        inside = super().messages(wanted, start_ns=first, stop_ns=last)
        fixed = [
            topic.name
            for topic in self.topics
            if topic.msgtype in TF_TYPES and topic.name.endswith("static") and (wanted is None or topic.name in wanted)
        ]
        if start_ns is not None or not fixed:
            return inside
        return chain(super().messages(fixed, stop_ns=self.start_ns), inside)
