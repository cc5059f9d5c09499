"""Videos behind URLs, from real servers on this machine: the same frames, few bytes, and clear errors."""

from __future__ import annotations

import base64
import signal
import sys
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import closing
from fractions import Fraction
from importlib import import_module
from pathlib import Path
from typing import Any

import av
import boto3
import cv2
import fsspec
import numpy as np
import oracle
import pytest
from conftest import recording
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from serving import Answer, Server, cut, far, serving, short, stall, status, whole
from test_command import Child

from gpu_bgstat import Background, Config, estimate
from gpu_bgstat.arena import Arena
from gpu_bgstat.cli import default_folder, main
from gpu_bgstat.errors import DeviceError, SourceError
from gpu_bgstat.media import remote
from gpu_bgstat.media.remote import RemoteFile
from gpu_bgstat.schedule import Planned
from gpu_bgstat.sources import open_source
from gpu_bgstat.sources.video import VideoSource

FRAMES, GOP = 450, 15
FEW = Config(every=100, method="median", device="cpu", decoders=2)  # four samples, in four groups of pictures
INDICES = [99, 199, 299, 399]
OPENING = 150_000  # bytes: two first pieces of 64 KiB, where the header and the first frame are, and the tables
QUESTION = 1  # byte, to learn whether it is a file
HEAD = 200_000  # bytes: where the faults begin; all that is read to open the file lies before
TABLED = ("behind.mp4", "front.mp4", "clip.avi")
SCANNED = ("clip.mkv", "clip.ts", "fragmented.mp4")
SECRETS = ("s3cr3t", "pa%40ss", "pa@ss", "somebody")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """15 s of an arena with much noise, 1 to 10 MB, a keyframe every 15 frames, in six containers."""
    folder = tmp_path_factory.mktemp("clips")
    frames = list(Arena(width=320, height=240, animals=3, noise=2.5).frames(FRAMES))
    write(folder / "behind.mp4", frames)
    write(folder / "clip.avi", frames, "mpeg4")
    copy(folder / "behind.mp4", folder / "front.mp4", movflags="faststart")
    copy(folder / "behind.mp4", folder / "fragmented.mp4", movflags="frag_keyframe+empty_moov")
    copy(folder / "behind.mp4", folder / "clip.mkv")
    copy(folder / "behind.mp4", folder / "clip.ts")
    return {path.name: path for path in folder.iterdir()}


def write(path: Path, frames: list[Any], codec: str = "libx264") -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(30))
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 320, 240, "yuv420p", GOP
        quality = {"crf": "12", "preset": "superfast"} if codec == "libx264" else {"qmin": "1", "qmax": "2"}
        stream.options = {"g": str(GOP), **quality}
        for pixels in frames:
            planes: Any = cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def copy(source: Path, target: Path, **options: str) -> None:
    """The same packets in another container."""
    with av.open(str(source)) as old, av.open(str(target), "w", options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)


@pytest.fixture
def server(clips: dict[str, Path]) -> Iterator[Server]:
    with serving({f"/{name}": path.read_bytes() for name, path in clips.items()}) as server:
        yield server


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second instead of thirty."""
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.5)


def same(one: Background, other: Background) -> bool:
    arrays = ("background", "variance", "stable", "heatmap")
    return (
        all(np.array_equal(getattr(one, name), getattr(other, name)) for name in arrays)
        and one.samples == other.samples
        and one.run.frames_seen == other.run.frames_seen
        and one.run.warnings == other.run.warnings
    )


def planned_bytes(path: Path, numbers: list[int]) -> int:
    """From the keyframe to the packet of each frame, by a plain look at all packets; each frame is in another group."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keys = [row for row, packet in enumerate(packets) if packet.is_keyframe]
    order = sorted(range(len(packets)), key=lambda row: packets[row].pts or 0)
    rows = [order[number] for number in numbers]
    return sum(packet.size for row in rows for packet in packets[keys[bisect_right(keys, row) - 1] : row + 1])


def twice(server: Server) -> int:
    """How many bytes were sent more than once."""
    seen, again = np.zeros(max(map(len, server.files.values())), np.int64), 0
    for begin, end in server.ranges:
        again += int(np.count_nonzero(seen[begin:end]))
        seen[begin:end] = 1
    return again


# --- the same frames, and few bytes --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TABLED, *SCANNED])
def test_the_frames_are_those_of_the_file(name: str, server: Server, clips: dict[str, Path]) -> None:
    """Numbers and times as from the local path, pixels as in a plain decode."""
    plan = Planned(INDICES, FRAMES)
    with closing(open_source(f"{server.url}/{name}", FEW)) as there, closing(open_source(clips[name], FEW)) as here:
        far_ones, near_ones = list(there.read(plan)), list(here.read(Planned(INDICES, FRAMES)))
        assert there.container == here.container and there.spec == here.spec
        assert there.timeline is not None and there.timeline.frames == FRAMES
        assert there.name == f"{server.url}/{name}"
        assert there.decoding["decoders"] == 2 and there.warnings == []
    total, expected = oracle.decode(clips[name], 100)
    assert total == FRAMES
    assert [frame.index for frame in far_ones] == INDICES
    assert [frame.time_s for frame in far_ones] == [frame.time_s for frame in near_ones]
    for frame in far_ones:
        assert np.array_equal(frame.pixels, expected[frame.index])


@pytest.mark.parametrize("decoders", [1, 4])
@pytest.mark.parametrize("name", TABLED)
def test_only_what_the_plan_needs_is_read(name: str, decoders: int, server: Server, clips: dict[str, Path]) -> None:
    """To the byte: the stretches, beside what opening takes. Decoders share what was fetched."""
    config = FEW.model_copy(update={"decoders": decoders})
    told = estimate(f"{server.url}/{name}", config)
    assert same(told, estimate(clips[name], config))
    needed, size = planned_bytes(clips[name], INDICES), clips[name].stat().st_size
    assert needed <= server.sent <= needed + OPENING + QUESTION + 8 * len(INDICES)
    assert server.sent < size / 4
    assert len(server.ranges) <= 2 + 2 + len(INDICES)
    assert twice(server) == 0


@pytest.mark.parametrize("name", TABLED)
def test_keyframes_cost_less_still(name: str, server: Server, clips: dict[str, Path]) -> None:
    estimate(f"{server.url}/{name}", FEW)
    before = server.sent
    server.forget()
    config = FEW.model_copy(update={"snap": "keyframe"})
    told = estimate(f"{server.url}/{name}", config)
    assert same(told, estimate(clips[name], config))
    numbers = [sample.index for sample in told.samples]
    needed = planned_bytes(clips[name], numbers)
    assert needed <= server.sent <= needed + OPENING + QUESTION + 8 * len(numbers)
    assert server.sent < before


@pytest.mark.parametrize("name", SCANNED)
def test_without_tables_a_file_is_read_once(name: str, server: Server, clips: dict[str, Path]) -> None:
    """Whole, but no byte twice, in pieces that grow; the documentation says so."""
    assert same(estimate(f"{server.url}/{name}", FEW), estimate(clips[name], FEW))
    assert clips[name].stat().st_size * 0.99 < server.sent <= clips[name].stat().st_size + QUESTION
    assert twice(server) == 0
    assert len(server.ranges) < (80 if name == "fragmented.mp4" else 25)  # a few for each of 30 fragments


def test_the_documentation_says_what_is_read_whole() -> None:
    text = (Path(__file__).resolve().parents[1] / "docs" / "command.md").read_text(encoding="utf-8")
    section = text.partition("## Remote files\n")[2].partition("\n## ")[0]
    assert all(f"| {name} " in section for name in ("MP4, MOV", "AVI", "MKV, WebM, TS, FLV, WMV, fragmented MP4"))
    assert f"{remote.TIMEOUT_S:.0f} s" in section and f"{remote._KEPT_BYTES >> 20} MiB" in section


def test_what_is_kept_is_bounded(server: Server, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan of more than fits: the samples' stretches are fetched again, and the frames are the same."""
    monkeypatch.setattr(remote, "_KEPT_BYTES", 300_000)
    monkeypatch.setattr(remote, "_MOST_BYTES", 100_000)
    size = clips["clip.mkv"].stat().st_size
    with closing(open_source(f"{server.url}/clip.mkv", FEW)) as source:
        frames = list(source.read(Planned(INDICES, FRAMES)))
        assert isinstance(source, VideoSource) and isinstance(source._file, RemoteFile)
        assert sum(map(len, source._file._pieces.values())) == source._file._kept <= 300_000
    _, expected = oracle.decode(clips["clip.mkv"], 100)
    assert all(np.array_equal(frame.pixels, expected[frame.index]) for frame in frames)
    assert server.sent < 1.3 * size


def test_a_plan_reads_the_header_alone(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", f"{server.url}/behind.mp4", "--every", "100"]) == 0
    out = capsys.readouterr().out
    assert f"source   {server.url}/behind.mp4" in out and "frames   450" in out
    assert server.sent <= OPENING + QUESTION


@pytest.mark.recordings
def test_a_real_recording() -> None:
    """The tracktor mouse, 10000 frames."""
    path = recording("animals/tracktor_mouse_video.mp4")
    config = Config(every=1000, device="cpu")
    with serving({"/mouse.mp4": path.read_bytes()}) as server:
        told = estimate(f"{server.url}/mouse.mp4", config)
    assert same(told, estimate(path, config))
    needed = planned_bytes(path, [sample.index for sample in told.samples])
    assert needed <= server.sent <= needed + 2 * OPENING  # its tables alone are 120 KB
    assert server.sent < path.stat().st_size / 3
    assert twice(server) == 0


def test_parts_here_and_there(server: Server, clips: dict[str, Path]) -> None:
    joined = estimate([str(clips["front.mp4"]), f"{server.url}/clip.avi"], FEW)
    local = estimate([str(clips["front.mp4"]), str(clips["clip.avi"])], FEW)
    assert same(joined, local)
    assert joined.run.frames_seen == 2 * FRAMES
    assert server.sent < clips["clip.avi"].stat().st_size / 3


def test_the_command(server: Server, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--every", "100", "--device", "cpu", "--quiet"]
    assert main(["estimate", f"{server.url}/behind.mp4", *arguments]) == 0
    assert main(["estimate", str(clips["behind.mp4"]), *arguments, "-o", "local"]) == 0
    for name in ("background_est.png", "background_var.png", "stable_mask.png", "variance.npy"):
        assert (tmp_path / "behind_background" / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


def test_hardware_decoding_takes_local_files(server: Server) -> None:
    with pytest.raises(DeviceError, match=r"behind\.mp4 is remote: use --decode cpu"):
        estimate(f"{server.url}/behind.mp4", FEW.model_copy(update={"decode": "nvdec"}))


# --- other protocols -----------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real S3 server on this machine; the client's own ways lead to it."""
    store = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    store.start()
    host, port = store.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket="lab")
    yield client
    client.close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    store.stop()


def test_s3(bucket: Any, clips: dict[str, Path]) -> None:
    size = clips["behind.mp4"].stat().st_size
    bucket.put_object(Bucket="lab", Key="day 1/behind.mp4", Body=clips["behind.mp4"].read_bytes())
    url = "s3://lab/day 1/behind.mp4"
    assert same(estimate(url, FEW), estimate(clips["behind.mp4"], FEW))
    with closing(open_source(url, FEW)) as source:
        assert len(list(source.read(Planned(INDICES, FRAMES)))) == len(INDICES)
        assert isinstance(source, VideoSource) and isinstance(source._file, RemoteFile)
        assert source._file.fetched < 0.15 * size
    for wrong in ("s3://nobody/behind.mp4", "s3://lab/other.mp4"):
        with pytest.raises(SourceError, match=rf"^{wrong} cannot be reached \(.*\): check the address"):
            open_source(wrong)


def test_s3_replaced_while_read(bucket: Any, clips: dict[str, Path]) -> None:
    bucket.put_object(Bucket="lab", Key="rec.mp4", Body=clips["behind.mp4"].read_bytes())
    with closing(open_source("s3://lab/rec.mp4", FEW)) as source:
        bucket.put_object(Bucket="lab", Key="rec.mp4", Body=clips["front.mp4"].read_bytes())
        with pytest.raises(SourceError, match=r"was (replaced|changed) while it was read"):
            list(source.read(Planned(INDICES, FRAMES)))


def test_memory(clips: dict[str, Path]) -> None:
    fsspec.filesystem("memory").pipe("/day/rec.mp4", clips["behind.mp4"].read_bytes())
    assert same(estimate("memory://day/rec.mp4", FEW), estimate(clips["behind.mp4"], FEW))
    fsspec.filesystem("memory").pipe("/empty.mp4", b"")
    with pytest.raises(SourceError, match=r"^memory://empty\.mp4 is empty$"):
        open_source("memory://empty.mp4")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("nosuch://host/rec.mp4", "nosuch://host/rec.mp4: Protocol not known: nosuch"),
        ("memory://nothing.mp4", r"memory://nothing.mp4 cannot be reached \(FileNotFoundError"),
        ("http://[::1/rec.mp4", r"http://\[::1/rec.mp4 is no URL"),
        ("https://host/stack.tif", "of remote files only videos can be read"),
        ("s3://lab/stack.zarr", "of remote files only videos can be read"),
    ],
)
def test_urls_that_lead_nowhere(url: str, told: str) -> None:
    with pytest.raises(SourceError, match=told):
        open_source(url)


def test_without_the_libraries(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What to install is told."""
    install = r"pip install 'gpu-bgstat\[remote\]'$"
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "fsspec.core", None)
        with pytest.raises(SourceError, match=rf"behind.mp4 is read by fsspec, which is not installed: {install}"):
            open_source(f"{server.url}/behind.mp4")
    registry: dict[str, Any] = import_module("fsspec.registry")._registry
    monkeypatch.delitem(registry, "http", raising=False)
    monkeypatch.setitem(sys.modules, "fsspec.implementations.http", None)
    with pytest.raises(SourceError, match=rf"library for this protocol is missing \(.*\); for http and s3: {install}"):
        open_source(f"{server.url}/behind.mp4")


# --- servers that stall --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", ["front.mp4", "behind.mp4", "clip.avi", "clip.mkv"])
def test_a_server_that_stalls(name: str, share: float, server: Server, hurried: None) -> None:
    """Before a body or amid it: after three time-outs, an error that names the file and the bytes."""
    before = set(threading.enumerate())
    server.fault = far(HEAD, stall(server, share))
    started = time.monotonic()
    told = (
        rf"^{server.url}/{name}: bytes \d+ to \d+ cannot be had \(TimeoutError: no answer within 0\.5 s, 3 attempts\)"
    )
    with pytest.raises(SourceError, match=told):
        estimate(f"{server.url}/{name}", FEW)
    assert 1.4 < time.monotonic() - started < 4
    assert all(thread.daemon for thread in set(threading.enumerate()) - before)


def test_a_server_that_stalls_at_once(server: Server, hurried: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_ASK_S", 0.2)
    with pytest.raises(SourceError, match=r"front\.mp4"):
        server.fault = far(1, stall(server))
        estimate(f"{server.url}/front.mp4", FEW)


def test_one_error_ends_all_waiting(server: Server) -> None:
    """Another decoder waits for an answer that would take half a minute."""
    stalling = stall(server)

    def fault(answer: Answer) -> bool:
        return stalling(answer) if not server.stalled.is_set() else server.stalled.wait() and status(403)(answer)

    server.fault = far(HEAD, fault)
    started = time.monotonic()
    with pytest.raises(SourceError, match=r"bytes \d+ to \d+ cannot be had \(ClientResponseError: 403"):
        estimate(f"{server.url}/front.mp4", FEW)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["front.mp4", "behind.mp4", "clip.mkv"])
def test_interrupted_while_the_server_stalls(name: str, server: Server, tmp_path: Path, stop: signal.Signals) -> None:
    """Decoders wait (the tables are in front), or the reader does, inside FFmpeg."""
    server.fault = far(HEAD, stall(server))
    child = Child(["estimate", f"{server.url}/{name}", "--every", "100", "-o", tmp_path / "out", "--quiet"])
    assert server.stalled.wait(30)
    child.stop(stop)
    assert not (tmp_path / "out").exists()


# --- servers that fail, and lie ------------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, HEAD])
@pytest.mark.parametrize("fault", [status(500, 1), cut(0.5)], ids=["500", "cut"])
def test_a_fault_that_passes(
    fault: Callable[[Answer], bool], behind: int, server: Server, clips: dict[str, Path]
) -> None:
    met: list[int] = []

    def once(answer: Answer) -> bool:
        met.append(answer.begin)
        return len(met) == 1 and fault(answer)

    server.fault = far(behind, once)
    assert same(estimate(f"{server.url}/front.mp4", FEW), estimate(clips["front.mp4"], FEW))
    assert len(met) > 1


@pytest.mark.parametrize("code", [401, 403, 404, 500])
def test_a_server_that_refuses(code: int, server: Server) -> None:
    server.fault = status(code)
    with pytest.raises(SourceError, match=rf"^{server.url}/front\.mp4 cannot be opened: the server answers {code} "):
        estimate(f"{server.url}/front.mp4", FEW)


@pytest.mark.parametrize("code", [403, 500])
def test_a_server_that_refuses_later(code: int, server: Server) -> None:
    server.fault = far(HEAD, status(code))
    with pytest.raises(
        SourceError, match=rf"bytes \d+ to \d+ cannot be had \(ClientResponseError: {code}, .*3 attempts"
    ):
        estimate(f"{server.url}/front.mp4", FEW)


def test_a_server_that_is_not_there() -> None:
    with serving({}) as gone:
        pass
    with pytest.raises(SourceError, match=rf"^{gone.url}/rec\.mp4 cannot be opened: is it there"):
        estimate(f"{gone.url}/rec.mp4", FEW)


def test_a_server_that_dies(server: Server) -> None:
    """The error names the bytes, although nothing else is answered either."""

    def fault(answer: Answer) -> bool:
        server.fault = status(500)
        return status(500)(answer)

    server.fault = far(HEAD, fault)
    with pytest.raises(SourceError, match=r"bytes \d+ to \d+ cannot be had \(ClientResponseError: 500, .*3 attempts"):
        estimate(f"{server.url}/front.mp4", FEW.model_copy(update={"decoders": 1}))


def test_a_server_that_goes_away(server: Server) -> None:
    """All was read by then: the result stands, with a word."""
    with closing(open_source(f"{server.url}/front.mp4", FEW)) as source:
        frames = source.read(Planned(INDICES, FRAMES))
        assert [next(frames).index for _ in INDICES] == INDICES
        server.fault = status(500)
        assert list(frames) == []
    told = f"{server.url}/front.mp4 cannot be reached any more; all that was needed had been read by then"
    assert source.warnings == [told]


def test_a_server_that_knows_no_head(server: Server, clips: dict[str, Path]) -> None:
    """As of a URL that is signed for GET alone."""
    server.fault = lambda answer: answer.command == "HEAD" and status(403)(answer)
    assert same(estimate(f"{server.url}/front.mp4", FEW), estimate(clips["front.mp4"], FEW))


def test_an_empty_file(server: Server) -> None:
    server.files["/empty.mp4"] = b""
    with pytest.raises(SourceError, match=r"empty\.mp4 is empty$"):
        open_source(f"{server.url}/empty.mp4")


@pytest.mark.parametrize("behind", [0, HEAD])
def test_a_server_without_ranges(behind: int, server: Server) -> None:
    """From the beginning, or all of a sudden: no wrong byte is taken."""
    server.fault = far(behind, whole)
    with pytest.raises(SourceError, match=r"front\.mp4: .*does not serve ranges, so download the file first"):
        estimate(f"{server.url}/front.mp4", FEW)


@pytest.mark.parametrize("fault", [short, cut(0.5)], ids=["short", "cut"])
def test_a_short_answer(fault: Callable[[Answer], bool], server: Server) -> None:
    server.fault = far(HEAD, fault)
    with pytest.raises(SourceError, match=r"bytes \d+ to \d+ cannot be had \(.*, 3 attempts\)"):
        estimate(f"{server.url}/front.mp4", FEW)


@pytest.mark.parametrize("marked", [True, False])
@pytest.mark.parametrize("by", ["behind.mp4", "clip.avi", "short"])
@pytest.mark.parametrize("name", ["front.mp4", "clip.mkv"])
def test_a_file_that_is_replaced_while_it_is_read(name: str, by: str, marked: bool, server: Server) -> None:
    """At the first range behind the head, whose answer is the new file's already; without ETags the size tells."""
    server.marked = marked
    new = server.files[f"/{name}"][:HEAD] if by == "short" else server.files[f"/{by}"]
    if not marked:
        new += bytes(1)

    def fault(answer: Answer) -> bool:
        server.files[f"/{name}"] = new
        return False

    server.fault = far(HEAD, fault)
    with pytest.raises(SourceError, match=r"was (replaced|changed) while it was read: start again"):
        estimate(f"{server.url}/{name}", FEW)


def test_a_file_that_is_replaced_after_the_last_byte(server: Server) -> None:
    with closing(open_source(f"{server.url}/front.mp4", FEW)) as source:
        frames = source.read(Planned(INDICES, FRAMES))
        for _ in INDICES:
            next(frames)
        server.files["/front.mp4"] = server.files["/behind.mp4"]
        with pytest.raises(SourceError, match="was changed while it was read"):
            next(frames)


# --- secrets -------------------------------------------------------------------------------------------------------


def test_secrets_stand_nowhere(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither password nor signature: not in the results, nor in the folder's name, nor in what is printed."""
    monkeypatch.chdir(tmp_path)
    host = server.url.removeprefix("http://")
    url = f"http://somebody:pa%40ss@{host}/behind.mp4?X-Amz-Signature=s3cr3t&token=s3cr3t.more"
    assert main(["estimate", url, "--every", "100"]) == 0
    assert main(["plan", url, "--json"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["behind_background"]
    login = "Basic " + base64.b64encode(b"somebody:pa@ss").decode()
    assert {ask.authorization for ask in server.asked} == {login}
    for fault in (status(403), far(HEAD, status(500)), far(HEAD, short), far(HEAD, whole)):
        server.fault = fault
        assert main(["estimate", url, "--every", "100"]) == 1
    told = capfd.readouterr()
    written = [path.read_text() for path in tmp_path.rglob("*") if path.suffix in (".json", ".html")]
    assert len(written) == 2
    for text in (told.err, *written):
        assert f"{server.url}/behind.mp4?…" in text
    for text in (told.out, told.err, *written):
        assert [secret for secret in SECRETS if secret in text] == []


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("https://host/dir/rec.mp4?token=s3cr3t", "rec_background"),
        ("https://host/dir/rec.mp4?token=a/s3cr3t.x", "rec_background"),
        ("s3://lab/day 1/rec.2.avi", "rec.2_background"),
        ("rtsp://somebody:s3cr3t@camera/", "camera_background"),
        ("simplecache::https://somebody:s3cr3t@host", "host_background"),
    ],
)
def test_the_folder_of_a_url(url: str, folder: str) -> None:
    assert default_folder([url]) == Path(folder)


def test_secrets_of_chained_urls(server: Server) -> None:
    """fsspec's chains, here of a cache before the server."""
    host = server.url.removeprefix("http://")
    url = f"simplecache::http://somebody:pa%40ss@{host}/behind.mp4?X-Amz-Signature=s3cr3t"
    with closing(open_source(url, FEW)) as source:
        assert source.name == f"simplecache::http://{host}/behind.mp4?…"


def test_other_letters_in_a_path(server: Server) -> None:
    server.files["/K%C3%A4fig%201.mp4"] = server.files["/front.mp4"]
    with closing(open_source(f"{server.url}/Käfig 1.mp4", FEW)) as source:
        assert source.timeline is not None and source.timeline.frames == FRAMES


def test_a_playlist_is_a_stream(server: Server) -> None:
    """Although servers give parts of it: it is no video by itself."""
    server.files["/live.m3u8"] = b"#EXTM3U\n"
    with pytest.raises(SourceError, match=r"live\.m3u8 cannot be opened: is it there, and free"):
        open_source(f"{server.url}/live.m3u8")


# --- the cache by itself -------------------------------------------------------------------------------------------

CONTENT = np.random.default_rng(3).integers(0, 256, 20_000, dtype=np.uint8).tobytes()
places = st.integers(0, len(CONTENT) + 10)
reads = st.tuples(st.just("read"), places, st.integers(0, 3000))
ranges = st.lists(st.tuples(places, places).map(sorted).map(tuple), max_size=5)


@settings(deadline=None, max_examples=100)
@given(st.lists(reads | st.tuples(st.just("expect"), ranges, st.none()), max_size=30))
def test_the_cache_gives_the_files_bytes(steps: list[tuple[str, Any, Any]]) -> None:
    """Whatever is read and expected; what is kept is counted rightly, and it and its pieces are bounded."""
    fsspec.filesystem("memory").pipe("/cache.bin", CONTENT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_FIRST_BYTES", 64)
        patch.setattr(remote, "_MOST_BYTES", 1000)
        patch.setattr(remote, "_KEPT_BYTES", 4000)
        file = RemoteFile("memory://cache.bin")
        for step, first, second in steps:
            if step == "expect":
                file.expect([(begin, end) for begin, end in first if begin < end])
                continue
            found = file.read(first, second)
            assert found == CONTENT[first : first + len(found)] and len(found) <= second
            assert found or not second or first >= len(CONTENT)
            assert file._kept == sum(map(len, file._pieces.values())) <= 4000
            assert all(len(piece) <= 1000 for piece in file._pieces.values())
        with file.raw() as raw:
            assert raw.read() == CONTENT


def test_threads_share_a_file() -> None:
    fsspec.filesystem("memory").pipe("/cache.bin", CONTENT)
    file = RemoteFile("memory://cache.bin")
    found: list[bytes] = []

    def read() -> None:
        with file.raw() as raw:
            found.append(raw.read())

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 4


def test_a_closed_file_lets_its_readers_go(server: Server) -> None:
    file = RemoteFile(f"{server.url}/behind.mp4")
    server.fault = far(HEAD, stall(server))
    errors: list[Exception] = []

    def read() -> None:
        try:
            file.read(HEAD, 100)
        except SourceError as error:
            errors.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    assert server.stalled.wait(10)
    file.close()
    reader.join(5)
    assert [str(error) for error in errors] == [f"{server.url}/behind.mp4 was closed while it was read"]
