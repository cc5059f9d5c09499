"""Which packets are decoded for which frames, by a model of what decoders need; and where that is learned."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.bitstream import BitStreamFilterContext
from clips import Clip, copied, unevenly
from hypothesis import given
from hypothesis import strategies as st

from gpu_bgstat.media import packets
from gpu_bgstat.media.decode_plan import keyframe_after, keyframe_before, stretches
from gpu_bgstat.media.mp4_tables import composition_offsets
from gpu_bgstat.media.packets import PacketIndex
from gpu_bgstat.schedule import snapped

# --- what decoders need ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Film:
    """Packets in decoding order, and which of the earlier ones each refers to."""

    index: PacketIndex
    needs: tuple[frozenset[int], ...]


@st.composite
def films(draw: st.DrawFn) -> Film:
    """Groups of pictures, closed and open, with B-frames and with packets that are never shown.

    decoded  I P b b I l l P b      l: leading, shown before its keyframe, and may need the group before
    shown    I b b P l l I b P
    """
    order: list[tuple[int, bool, bool]] = []  # (place among the shown, keyframe, shown)
    needs: list[frozenset[int]] = []
    shown = 0

    def some(of: list[int]) -> frozenset[int]:
        return frozenset(draw(st.lists(st.sampled_from(of), min_size=1, max_size=4)))

    def add(place: int, refers: frozenset[int], key: bool = False, visible: bool = True) -> int:
        order.append((place, key, visible))
        needs.append(refers)
        return len(order) - 1

    group: list[int] = []
    for number in range(draw(st.integers(1, 6))):
        before = group
        leading = draw(st.integers(0, 3)) if number and draw(st.booleans()) else 0
        group = [add(2 * (shown + leading), frozenset(), key=True)]
        for place in range(shown, shown + leading):
            add(2 * place, some([*before, group[0]]))
        shown += leading + 1
        for _ in range(draw(st.integers(0, 4))):
            b_frames = draw(st.integers(0, 3))
            if draw(st.integers(0, 4)) == 0:
                group.append(add(2 * shown + 1, some(group), visible=False))
            group.append(add(2 * (shown + b_frames), some(group)))
            for place in range(shown, shown + b_frames):
                group.append(add(2 * place, some(group)))
            shown += b_frames + 1
    places = np.array([place for place, _, _ in order], np.int64)
    return Film(
        PacketIndex(
            pts=places * draw(st.integers(1, 40)) + draw(st.integers(-99, 99)),
            dts=np.arange(len(order), dtype=np.int64),
            key=np.array([key for _, key, _ in order]),
            shown=np.array([visible for _, _, visible in order]),
            begin=np.arange(len(order), dtype=np.int64) * 10,
            size=np.full(len(order), 10, np.int64),
            origin=packets.PACKETS,
        ),
        tuple(needs),
    )


def decodable(film: Film, first: int, stop: int) -> set[int]:
    """The packets that come out right if decoding starts at `first` with nothing known."""
    right: set[int] = set()
    for packet in range(first, stop):
        if film.index.key[packet] or film.needs[packet] <= right:
            right.add(packet)
    return right


@given(film=films(), data=st.data())
def test_stretches_are_exact_and_no_longer_than_needed(film: Film, data: st.DataObject) -> None:
    index = film.index
    frames = sorted(data.draw(st.sets(st.integers(0, len(index.rows) - 1), min_size=1)))
    found = stretches(index, frames)
    assert sorted(pair for part in found for pair in part.wanted) == [(n, int(index.rows[n])) for n in frames]
    for part in found:
        assert index.key[part.first], "it begins at a keyframe"
        rows = [row for _, row in part.wanted]
        assert max(rows) == part.stop - 1, "nothing is decoded after the last wanted packet"
        assert set(rows) <= decodable(film, part.first, part.stop)
        assert [number for number, _ in part.wanted] == sorted(number for number, _ in part.wanted)
    assert all(a.stop <= b.first for a, b in pairwise(found)), "no packet is decoded twice"
    numbers = [number for part in found for number, _ in part.wanted]
    assert numbers == frames, "stretches are in the order of their frames: no reader waits for a later one"
    assert sum(part.stop - part.first for part in found) <= max(index.rows[frames]) + 1, "a sequential decode needs"


@given(film=films(), data=st.data())
def test_a_lone_frame_costs_the_way_from_the_nearest_keyframe_that_does(film: Film, data: st.DataObject) -> None:
    """For frames that are shown after their keyframe, that is the last one; leading ones may need the group before."""
    index = film.index
    number = data.draw(st.integers(0, len(index.rows) - 1))
    row = int(index.rows[number])
    (part,) = stretches(index, [number])
    last = max(key for key in np.flatnonzero(index.key) if key <= row)
    if index.pts[last] <= index.pts[row]:
        assert part.first == last
    else:
        assert part.first == keyframe_before(index, int(last))


def test_no_frames_have_no_stretches() -> None:
    index = small([0, 1], [True, False])
    assert stretches(index, []) == []


def test_the_drawing_of_the_decode_plan() -> None:
    """I P b P b P b I b P b P b I b P, with the fourth frame and the first b behind the second I wanted."""
    #       I  P  b  P  b  P  b  I  b  P   b  P   b   I   b   P
    pts = [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 15]
    index = small(pts, [k in (0, 7, 13) for k in range(16)])
    assert [(part.first, part.stop) for part in stretches(index, [4, 10])] == [(0, 4), (7, 10)]
    assert [(part.first, part.stop) for part in stretches(index, [7])] == [(0, 9)], "a leading picture"
    assert [(part.first, part.stop) for part in stretches(index, [7, 10])] == [(0, 10)], "one reaches into the other"


def small(pts: list[int], key: list[bool], shown: list[bool] | None = None) -> PacketIndex:
    count = len(pts)
    return PacketIndex(
        pts=np.array(pts, np.int64),
        dts=np.arange(count, dtype=np.int64),
        key=np.array(key, bool),
        shown=np.array(shown or [True] * count, bool),
        begin=np.arange(count, dtype=np.int64),
        size=np.ones(count, np.int64),
        origin=packets.PACKETS,
    )


@given(key=st.lists(st.booleans(), min_size=1, max_size=40), data=st.data())
def test_keyframes_around_a_packet(key: list[bool], data: st.DataObject) -> None:
    index = small(list(range(len(key))), key)
    packet = data.draw(st.integers(0, len(key)))
    assert keyframe_before(index, packet) == max((k for k in range(packet) if key[k]), default=0)
    assert keyframe_after(index, packet) == min((k for k in range(packet, len(key)) if key[k]), default=len(key))


# --- the index -------------------------------------------------------------------------------------------------------

stamps = st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=60, unique=True)


@given(pts=stamps, data=st.data())
def test_an_index_tells_numbers_times_and_keyframes(pts: list[int], data: st.DataObject) -> None:
    flags = st.lists(st.booleans(), min_size=len(pts), max_size=len(pts))
    key, shown = data.draw(flags), data.draw(flags)
    index = small(pts, key, shown)
    rows = sorted((k for k in range(len(pts)) if shown[k]), key=lambda k: pts[k])
    assert index.rows.tolist() == rows
    assert index.keyframes.tolist() == [number for number, row in enumerate(rows) if key[row]]
    for row, stamp in enumerate(pts):
        assert index.row(stamp) == row
        assert index.row(stamp + 1) == (pts.index(stamp + 1) if stamp + 1 in pts else -1)
    assert index.row(None) == -1
    numerator, denominator = data.draw(st.sampled_from([(1, 90_000), (1, 12_800), (1001, 30_000), (1, 1000)]))
    expected = [float(Fraction((pts[row] - pts[rows[0]]) * numerator, denominator)) for row in rows]
    assert index.times_s(numerator, denominator) == pytest.approx(expected, rel=1e-15, abs=0)  # beyond 2**53 ticks


@given(pts=stamps, data=st.data())
def test_lost_frames_leave_the_numbers_and_stay_packets(pts: list[int], data: st.DataObject) -> None:
    index = small(pts, [True] * len(pts))
    lost = data.draw(st.sets(st.integers(0, len(pts) - 1)))
    rest = index.without(lost)
    assert rest.rows.tolist() == [row for row in index.rows if row not in lost]
    assert [rest.row(stamp) for stamp in pts] == list(range(len(pts)))
    assert index.shown.all(), "the index itself stays as it was"


@given(film=films())
def test_no_doubt_about_sound_films(film: Film) -> None:
    assert packets.doubt(film.index, True, Codec("vp9")) == ""


@dataclass
class Codec:
    name: str
    has_b_frames: bool = False
    width: int = 96
    height: int = 72


def test_doubts_are_named() -> None:
    h264 = Codec("h264", has_b_frames=True)
    sound = small([0, 3, 1, 2, 4], [True, False, False, False, True])
    assert packets.doubt(sound, True, h264) == ""
    assert packets.doubt(sound, False, h264) == "its packets have no timestamps"
    rising = small([0, 1, 2, 3], [True, False, False, False])
    assert packets.doubt(rising, True, h264) == "its frames are reordered, and its timestamps are not"
    assert packets.doubt(rising, True, Codec("h264")) == ""
    later = replace(rising, pts=rising.pts + 1)
    assert packets.doubt(later, True, Codec("mpeg4", has_b_frames=True)) != "", "too small for a frame"
    assert packets.doubt(later, True, Codec("mpeg2video", has_b_frames=True)) == "", "it could have had B-frames"
    assert packets.doubt(rising, True, Codec("mpeg2video", has_b_frames=True)) != ""
    for pts, key, word in [
        ([0, 2, 2, 3], [True, False, False, True], "share"),
        ([0, 1, 2, 3], [False, True, False, False], "no keyframe"),
        ([1, 0, 2, 3], [True, False, False, False], "before the first keyframe"),
        ([0, 1, 4, 3, 5], [True, False, False, True, False], "shown after it"),
        ([], [], "no packets"),
    ]:
        assert word in packets.doubt(small(pts, key), True, Codec("h264"))


# --- the table of composition offsets --------------------------------------------------------------------------------

B_FRAMES = {"preset": "veryfast", "crf": "24", "x264-params": "bframes=3:b-adapt=0:b-pyramid=normal"}
MP4S = {
    "B-frames": Clip("mp4", "libx264", B_FRAMES),
    "no B-frames": Clip("mp4", "libx264", {**B_FRAMES, "x264-params": "bframes=0"}),
    "in front": Clip("mp4", "libx264", B_FRAMES, mux={"movflags": "faststart"}),
    "negative": Clip("mp4", "libx264", B_FRAMES, mux={"movflags": "negative_cts_offsets"}),
    "no edit list": Clip("mov", "libx264", B_FRAMES, mux={"use_editlist": "0"}),
    "starts later": Clip("mp4", "libx264", B_FRAMES, pts=lambda number: number + 50),
    "uneven": Clip("mp4", "libx264", B_FRAMES, pts=unevenly),
    "sound": Clip("mp4", "libx264", B_FRAMES, sound=True),
    "mpeg4": Clip("mov", "mpeg4", b_frames=2),
}


@pytest.fixture(scope="module")
def mp4s(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("mp4s")
    return {name: clip.write(folder / f"{name}.{clip.suffix}") for name, clip in MP4S.items()}


def demuxed(path: Path) -> tuple[int, list[int]]:
    """The track's number, and by how much each packet is shown later than decoded, less that of the first."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        packets_there: Any = [packet for packet in container.demux(stream) if packet.size]
        late = [packet.pts - packet.dts for packet in packets_there]
        return stream.id, [ticks - late[0] for ticks in late]


def relative(offsets: np.ndarray[tuple[int], np.dtype[np.int64]] | None) -> list[int]:
    assert offsets is not None
    return [int(ticks) for ticks in offsets - offsets[0]]


@pytest.mark.parametrize("name", MP4S)
def test_composition_offsets_are_those_of_the_packets(mp4s: dict[str, Path], name: str) -> None:
    track, late = demuxed(mp4s[name])
    with mp4s[name].open("rb") as file:
        assert relative(composition_offsets(file, track, len(late))) == late
        assert composition_offsets(file, track, len(late) + 1) is None, "the index is of another length"
        assert composition_offsets(file, track + 7, len(late)) is None, "no such track"


def test_the_second_video_track_has_its_own_offsets(mp4s: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with (
        av.open(str(mp4s["no B-frames"])) as one,
        av.open(str(mp4s["B-frames"])) as two,
        av.open(str(path), "w") as new,
    ):
        streams = [new.add_stream_from_template(old.streams.video[0]) for old in (one, two)]
        for old, stream in zip((one, two), streams, strict=True):
            for packet in [packet for packet in old.demux(video=0) if packet.size]:
                packet.stream = stream
                new.mux(packet)
    with path.open("rb") as file:
        assert set(relative(composition_offsets(file, 1, 120))) == {0}
        assert relative(composition_offsets(file, 2, 120)) == demuxed(mp4s["B-frames"])[1]


def top_level(data: bytes) -> list[tuple[bytes, bytes]]:
    """Kind and content of the outermost boxes."""
    found, at = [], 0
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        found.append((kind, data[at + 8 : at + length]))
        at += length
    return found


def box(kind: bytes, content: bytes, wide: bool = False) -> bytes:
    """A box; `wide`: with its length in 64 bits."""
    if wide:
        return struct.pack(">I4sQ", 1, kind, 16 + len(content)) + content
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_boxes_with_lengths_of_64_bits(mp4s: dict[str, Path]) -> None:
    track, late = demuxed(mp4s["B-frames"])
    boxes = top_level(mp4s["B-frames"].read_bytes())
    data = b"".join(box(kind, content, wide=kind in (b"moov", b"mdat")) for kind, content in boxes)
    assert relative(composition_offsets(io.BytesIO(data), track, len(late))) == late
    nested = b"".join(
        box(kind, b"".join(box(inner, of, wide=inner == b"trak") for inner, of in top_level(content)))
        for kind, content in boxes
        if kind == b"moov"
    )
    told = composition_offsets(io.BytesIO(nested), track, len(late))
    assert told is None or relative(told) == late


def test_a_file_that_was_cut_has_no_offsets(mp4s: dict[str, Path]) -> None:
    """Wherever it was cut: None, or those of the whole file."""
    for name in ("B-frames", "in front"):
        track, late = demuxed(mp4s[name])
        data = mp4s[name].read_bytes()
        begin = data.index(b"moov") - 4
        end = begin + struct.unpack_from(">I", data, begin)[0]
        for stop in (*range(0, begin, 5000), *range(begin - 20, end + 20)):
            told = composition_offsets(io.BytesIO(data[:stop]), track, len(late))
            assert told is None or relative(told) == late, stop


@given(data=st.data())
def test_spoilt_boxes_have_no_offsets_or_make_no_stir(mp4s: dict[str, Path], data: st.DataObject) -> None:
    """Whatever stands in the boxes: as many offsets as packets, or None; no exception, no endless loop."""
    track, late = demuxed(mp4s["in front"]) if not _KNOWN else _KNOWN[0]
    _KNOWN[:] = [(track, late)]
    whole = mp4s["in front"].read_bytes()
    begin = whole.index(b"moov") - 4
    end = begin + struct.unpack_from(">I", whole, begin)[0]
    spoilt = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end - 4))
        spoilt[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
    told = composition_offsets(io.BytesIO(bytes(spoilt)), track, len(late))
    assert told is None or len(told) == len(late)


_KNOWN: list[tuple[int, list[int]]] = []  # demuxing once is enough


def test_a_table_that_ends_early_has_no_offsets(mp4s: dict[str, Path]) -> None:
    """Boxes inside moov that claim to be longer than what holds them, or counts beyond the table."""
    track, late = demuxed(mp4s["B-frames"])
    data = mp4s["B-frames"].read_bytes()
    at = data.index(b"ctts")
    for place, value in [(at - 4, 1 << 20), (at + 8, 1 << 20), (at + 8, 3), (at - 4, 0), (at - 4, 1)]:
        spoilt = bytearray(data)
        struct.pack_into(">I", spoilt, place, value)
        assert composition_offsets(io.BytesIO(spoilt), track, len(late)) is None, (place - at, value)


@pytest.mark.parametrize("flags", ["frag_keyframe+empty_moov", "frag_keyframe", "frag_every_frame+empty_moov"])
def test_fragmented_files_keep_their_offsets_elsewhere(mp4s: dict[str, Path], flags: str, tmp_path: Path) -> None:
    path = copied(mp4s["B-frames"], tmp_path / "fragments.mp4", mux={"movflags": flags})
    with path.open("rb") as file:
        assert composition_offsets(file, 1, 120) is None


def test_edit_lists_that_hide_packets_are_read_from_the_packets(mp4s: dict[str, Path], tmp_path: Path) -> None:
    """A copy that begins within a group hides what is before it was asked to begin; the tables do not say which."""
    path = copied(mp4s["B-frames"], tmp_path / "hidden.mp4", first=24)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst")
    count = struct.unpack_from(">I", data, at + 8)[0]
    last = at + 12 + 12 * (count - 1)
    media = struct.unpack_from(">i", data, last + 4)[0]
    struct.pack_into(">i", data, last + 4, media + 10 * 512)
    path.write_bytes(data)
    with av.open(str(path)) as container:
        index, timed, stopped = packets.from_packets(container)
        assert timed and not stopped
        shown = len(list(av.open(str(path)).decode(video=0)))
        assert len(index.rows) == shown == 86


# --- frames that are never shown -------------------------------------------------------------------------------------


def gives_a_frame(chunks: list[bytes], codec: str) -> list[bool]:
    """Whether each packet gives a frame; with one thread it comes out at once."""
    decoder = av.CodecContext.create(codec, "r")
    decoder.thread_count = 1
    return [bool(decoder.decode(av.Packet(data))) for data in chunks]  # type: ignore[attr-defined]


def test_hidden_packets_of_vp9(tmp_path: Path) -> None:
    """An encoder that looks ahead makes reference frames that nobody sees: here taken out of their superframes."""
    options = {"auto-alt-ref": "1", "lag-in-frames": "25", "cpu-used": "6", "deadline": "realtime"}
    path = Clip("webm", "libvpx-vp9", options, gop=60).write(tmp_path / "clip.webm")
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        split = BitStreamFilterContext("vp9_superframe_split", stream)
        whole = [packet for packet in container.demux(stream) if packet.size]
        joined = [bytes(packet) for packet in whole]
        chunks = [bytes(part) for packet in whole for part in split.filter(packet)]
    assert len(chunks) > len(joined) == 120
    hidden = [packets._hidden(data, "vp9") for data in chunks]
    assert hidden == [not gives for gives in gives_a_frame(chunks, "vp9")]
    assert sum(hidden) == len(chunks) - len(joined)
    assert not any(packets._hidden(data, "vp9") for data in joined)


def test_hidden_packets_of_vp8(tmp_path: Path) -> None:
    path = Clip("webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}).write(tmp_path / "clip.webm")
    with av.open(str(path)) as container:
        chunks = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    for number in (5, 6, 30, 77):
        chunks[number] = bytes([chunks[number][0] & ~0x10, *chunks[number][1:]])  # the bit that says: show it
    hidden = [packets._hidden(data, "vp8") for data in chunks]
    assert hidden == [not gives for gives in gives_a_frame(chunks, "vp8")]
    assert np.flatnonzero(hidden).tolist() == [5, 6, 30, 77]


def test_vp9_headers_by_hand() -> None:
    """Frame marker 2, profile, reserved bit of profile 3, show_existing_frame, frame type, show_frame."""
    for bits, hidden in [
        ("10 0 0 0 0 1 0", False),
        ("10 0 0 0 0 0 0", True),
        ("10 0 0 1 000", False),  # shows an earlier frame again
        ("10 1 0 0 1 0 0", True),
        ("10 1 1 0 0 0 1", False),
        ("10 1 1 0 0 1 0", True),
        ("10 1 1 0 1 00", False),
    ]:
        byte = int(bits.replace(" ", ""), 2)
        assert packets._hidden(bytes([byte, 0]), "vp9") is hidden, bits
    assert not packets._hidden(bytes([0b10000000, 0b11000000]), "vp9"), "a superframe ends with what is shown"
    assert packets._hidden(bytes([0b00000000]), "vp8") and not packets._hidden(bytes([0b00010000]), "vp8")


# --- samples moved to keyframes --------------------------------------------------------------------------------------

numbers = st.sets(st.integers(0, 400), max_size=40).map(sorted)


def nearest(sample: int, keyframes: list[int]) -> int:
    return min(keyframes, key=lambda keyframe: (abs(keyframe - sample), keyframe))


@given(samples=numbers, keyframes=numbers)
def test_samples_are_moved_to_distinct_keyframes(samples: list[int], keyframes: list[int]) -> None:
    moved = snapped(samples, np.array(keyframes, np.int64))
    assert len(moved) == min(len(samples), len(keyframes))
    assert set(moved) <= set(keyframes)
    assert moved == sorted(set(moved))
    if len(samples) < len(keyframes):
        wished = [nearest(sample, keyframes) for sample in samples]
        if len(set(wished)) == len(wished):
            assert moved == wished, "each takes the nearest where no other wants it"


@given(
    samples=st.sets(st.integers(0, 60), min_size=1, max_size=5).map(sorted),
    keyframes=st.sets(st.integers(0, 60), min_size=1, max_size=9).map(sorted),
)
def test_samples_are_moved_no_further_than_others_crowd(samples: list[int], keyframes: list[int]) -> None:
    """Each by at most one keyframe from its nearest for each other sample; so much the sum may miss the best one by."""
    moved = snapped(samples, np.array(keyframes, np.int64))
    if len(keyframes) < len(samples):
        return
    others = len(samples) - 1
    for sample, keyframe in zip(samples, moved, strict=True):
        assert abs(keyframes.index(keyframe) - keyframes.index(nearest(sample, keyframes))) <= others
    total = sum(abs(a - b) for a, b in zip(samples, moved, strict=True))
    best = min(
        sum(abs(a - b) for a, b in zip(samples, choice, strict=True))
        for choice in combinations(keyframes, len(samples))
    )
    widest = max(np.diff(keyframes), default=0)
    assert best <= total <= best + len(samples) * others * widest
