"""URLs: which are files and which are live streams, and what of them may stand in a report."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_LIVE = {"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms", "mmsh"}  # FFmpeg's, never files
_PLAYLISTS = (".m3u8", ".m3u", ".mpd")  # of streams; the videos that they name are many files
_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@")
_QUERY = re.compile(r"\?\S+")


def is_url(text: str) -> bool:
    return "://" in text


def is_live(url: str) -> bool:
    """Whether only a camera can speak by this protocol, or it is the playlist of a stream."""
    parts = urlsplit(url)
    return parts.scheme.lower() in _LIVE or parts.path.lower().endswith(_PLAYLISTS)


def without_secrets(text: str) -> str:
    """A URL, or a message with URLs, without users, passwords and queries, where passwords and signatures stand."""
    return _QUERY.sub("?…", _LOGIN.sub("", text))
