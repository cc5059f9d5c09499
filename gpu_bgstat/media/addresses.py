"""URLs: which are files and which are live streams, and what of them may stand in a report."""

from __future__ import annotations

from urllib.parse import urlsplit

_LIVE = {"rtsp", "rtsps", "rtmp", "rtmps", "rtp", "udp", "tcp", "srt", "mms", "mmsh"}  # FFmpeg's, never files


def is_url(text: str) -> bool:
    return "://" in text


def is_live(url: str) -> bool:
    """Whether only a camera can speak by this protocol."""
    return urlsplit(url).scheme.lower() in _LIVE


def without_secrets(url: str) -> str:
    """The URL without user, password and query, where passwords and signatures stand."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="…" if parts.query else "").geturl()
