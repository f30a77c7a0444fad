"""Recorded data in and out: bags of every kind as a stream of messages, topics guessed, results as MCAP."""

from mf_ros.bags.reader import RecordedMessage, Recording, open_recording
from mf_ros.bags.writer import McapWriter
from mf_ros.core.topics import TopicChoice, TopicInfo, choose_topics

__all__ = [
    "McapWriter",
    "RecordedMessage",
    "Recording",
    "TopicChoice",
    "TopicInfo",
    "choose_topics",
    "open_recording",
]
