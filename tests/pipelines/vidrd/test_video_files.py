"""Video files: written whole or not at all, read back, recipes inside, wrong ones named."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.vidrd import video_files
from pipelines.vidrd.video_files import check_fps, export_video, h264_encoder, read_recipe, read_video

RECIPE = {"prompt": "a réd ball " * 40, "clips": [{"seed": 3}], "ä": [1, 2.5, None]}


def moving(count=6, size=(48, 32)):
    out = []
    for index in range(count):
        picture = Image.new("RGB", size, (40, 150, 210))
        picture.paste((220, 40, 30), (4 * index, 8, 4 * index + 12, 20))
        out.append(picture)
    return out


def worst(first, second):
    return max(
        np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("name", ["film.mp4", "film.webp", "film.gif"])
def test_frames_rate_and_recipe_come_back(tmp_path, name):
    frames = moving()
    made = export_video((frame for frame in frames), tmp_path / name, fps=12.5, recipe=RECIPE)
    assert (made.num_frames, made.width, made.height, made.seconds) == (6, 48, 32, 6 / 12.5)
    again, fps = read_video(tmp_path / name)
    assert fps == pytest.approx(12.5) and worst(frames, again) < 6
    assert read_recipe(tmp_path / name) == RECIPE
    last, _ = read_video((tmp_path / name).read_bytes(), last=2)
    assert worst(again[-2:], last) == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_mp4_is_h264_that_every_browser_plays(tmp_path):
    made = export_video(moving(), tmp_path / "a.mp4", fps=8)
    assert made.encoder == h264_encoder() and made.encoder in video_files.ENCODERS
    with av.open(str(made.path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.frames == 6 and float(stream.average_rate) == 8
    head = made.path.read_bytes()
    assert head.find(b"moov") < head.find(b"mdat")  # playing starts before all is loaded


def test_better_quality_is_nearer_and_larger(tmp_path):
    noise = [
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 48, 3), dtype=np.uint8))
        for i in (0, 1)
    ]
    for name in ("a.mp4", "a.webp"):
        low, high = (export_video(noise, tmp_path / f"{q}{name}", quality=q).path for q in (20, 95))
        assert high.stat().st_size > low.stat().st_size
        assert worst(noise, read_video(high)[0]) < worst(noise, read_video(low)[0])


def test_a_folder_of_pictures(tmp_path):
    frames = moving(3)
    made = export_video(frames, tmp_path / "film", recipe=RECIPE)
    names = sorted(path.name for path in made.path.iterdir())
    assert names == ["frame_00000.png", "frame_00001.png", "frame_00002.png"]
    assert worst(frames, [Image.open(made.path / name) for name in names]) == 0
    assert read_recipe(made.path) == RECIPE
    export_video(frames[:1], tmp_path / "film")  # takes the place of the old one
    assert len(list(made.path.iterdir())) == 1 and read_recipe(made.path) is None


def test_odd_sides_are_for_animations_only(tmp_path):
    frames = moving(2, (33, 21))
    with pytest.raises(ValueError, match="mp4 needs even sides; the frames have 33x21 pixels"):
        export_video(frames, tmp_path / "a.mp4")
    for name in ("a.gif", "a.webp"):
        assert read_video(export_video(frames, tmp_path / name).path)[0][0].size == (33, 21)


def test_the_poster_shows_the_most(tmp_path):
    frames = [Image.new("RGB", (32, 32)), *moving(1, (32, 32)), Image.new("RGB", (32, 32), "red")]
    assert worst([export_video(frames, tmp_path / "a.gif").poster], frames[1:2]) == 0


def test_animations_keep_time_at_any_rate(tmp_path):
    frames = moving(30, (160, 32))
    _, fps = read_video(export_video(frames, tmp_path / "a.gif", fps=24).path)
    assert fps == pytest.approx(24, rel=0.01)  # single frames last 40 or 50 ms
    assert len(read_video(tmp_path / "a.gif")[0]) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps is 0; it must be above 0 and at most 120"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"fps": 1000}, "fps is 1000"),
        ({"fps": -3}, "fps is -3"),
        ({"fps": 60, "name": "a.gif"}, "fps is 60; it must be above 0 and at most 50"),
        ({"quality": 0}, "quality is 0; it must lie in 1 to 100"),
        ({"name": "a.avi"}, r"the video's name ends in '.avi'; allowed: .mp4, .webp, .gif"),
        ({"frames": []}, "a video needs at least one frame"),
        (
            {"frames": [*moving(1), Image.new("RGB", (8, 8))]},
            r"frame 1 has size \(8, 8\), the first one \(48, 32\)",
        ),
    ],
)
def test_wrong_inputs_write_nothing(tmp_path, options, message):
    options = dict(options)
    path, frames = tmp_path / options.pop("name", "a.mp4"), options.pop("frames", moving(2))
    with pytest.raises(ValueError, match=message):
        export_video(frames, path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_break_in_the_middle_leaves_the_old_file(tmp_path):
    path = export_video(moving(), tmp_path / "a.mp4").path
    before = path.read_bytes()

    def broken():
        yield from moving(2)
        raise RuntimeError("the denoiser failed")

    with pytest.raises(RuntimeError, match="the denoiser failed"):
        export_video(broken(), path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError):
        export_video(moving(), "/proc/nowhere/a.mp4")


def test_without_an_encoder_one_line_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, "ENCODERS", ("no_such_encoder",))
    with pytest.raises(OSError, match="no H.264 encoder; export as .webp or .gif instead"):
        export_video(moving(), tmp_path / "a.mp4")


def broken_sources(tmp_path):
    whole = export_video(moving(), tmp_path / "a.mp4").path.read_bytes()
    sound = io.BytesIO()
    with av.open(sound, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    yield whole[:600]  # its index is gone
    yield b"\0\0\0\x20ftypisom" + b"x" * 500
    yield b"not a video at all"
    yield b""
    yield sound.getvalue()  # sound without pictures
    gif = export_video(moving(), tmp_path / "a.gif").path.read_bytes()
    yield gif[:40]


def test_files_that_are_no_videos_get_one_clear_line(tmp_path):
    for data in broken_sources(tmp_path):
        with pytest.raises(ValueError, match="^the video can't be read as a video") as caught:
            read_video(data)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 200
        (tmp_path / "b.mp4").write_bytes(data)
        with pytest.raises(ValueError, match="^b.mp4 can't be read as a video"):
            read_video(tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="missing.mp4 can't be read as a video"):
        read_video(tmp_path / "missing.mp4")


def test_huge_frames_are_refused_unread(tmp_path):
    Image.new("L", (9000, 8)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match="its frames have 9000x8 pixels, allowed are 8192 a side"):
        read_video(tmp_path / "wide.png")


def test_a_still_picture_is_a_video_of_one_frame(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    frames, fps = read_video(tmp_path / "a.png")
    assert len(frames) == 1 and fps == 0 and read_recipe(tmp_path / "a.png") is None


def test_rates():
    for fps in (0.5, 8, 120):
        check_fps(fps)
    with pytest.raises(ValueError, match="fps is '8'"):
        check_fps("8")
