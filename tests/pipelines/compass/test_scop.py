"""The data engine from file to folder: pictures, lines, archives, faults, stops."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.compass import scop_input, scop_mine
from pipelines.compass.scop import (
    METADATA,
    AnnotationError,
    ScopOutput,
    ScopParams,
    ScopStopped,
    run_scop,
)
from pipelines.compass.scop_benchmark import write_annotations
from pipelines.compass.scop_masks import mask_path, read_pairs, write_masks
from tests.pipelines.compass.conftest import annotation


def lines(out):
    return [json.loads(line) for line in (out / METADATA).read_text().splitlines()]


def test_a_pair_becomes_a_line_and_a_picture(write_coco, good_pair, pictures, tmp_path):
    out, seen = tmp_path / "out", []
    report = run_scop(
        write_coco(good_pair), pictures, out, output=ScopOutput(samples=2), on_progress=seen.append
    )
    assert (report.accepted, report.lines, report.pictures, report.pairs) == (1, 1, 1, 1)
    assert lines(out) == [
        {
            "seq": 0,
            "file_name": "images/000000000001.jpg",
            "oros": [["cat", "to the left of", "dog"], ["dog", "to the right of", "cat"]],
            "annots": good_pair,
        }
    ]
    picture = out / "images/000000000001.jpg"
    assert picture.is_symlink() and not os.path.isabs(os.readlink(picture))
    assert picture.resolve() == (pictures / "000000000001.jpg").resolve()
    with Image.open(out / "samples/000_000000000001_0.jpg") as sample:
        pixels = np.asarray(sample).astype(int)
    assert (pixels[60:140, 9:13, 2] > 120).mean() > 0.5  # the first box's left edge is cyan on red
    assert {item.phase for item in seen} == {"read", "mine", "write"}
    assert all(0 <= item.fraction <= 1 for item in seen) and report.pairs_per_second > 0
    stored = json.loads((out / "report.json").read_text())
    assert stored["accepted"] == 1 and stored["params"]["size_balance"] == 0.5


def test_pictures_can_be_copied_shared_or_left_out(write_coco, good_pair, pictures, tmp_path):
    source = write_coco(good_pair)
    run_scop(source, pictures, tmp_path / "copy", output=ScopOutput("copy"))
    copied = tmp_path / "copy/images/000000000001.jpg"
    assert copied.is_file() and not copied.is_symlink()
    assert copied.read_bytes() == (pictures / "000000000001.jpg").read_bytes()
    shared = ScopOutput(shared_images=tmp_path / "shared")
    for name in ("one", "two"):
        run_scop(source, pictures, tmp_path / name, output=shared)
        link = tmp_path / name / "images/000000000001.jpg"
        assert link.is_symlink() and link.resolve() == (tmp_path / "shared/000000000001.jpg").resolve()
    report = run_scop(source, pictures, tmp_path / "none", output=ScopOutput("none"))
    assert report.pictures == 0 and not (tmp_path / "none/images").exists()


def test_coco_folders_and_archives_give_the_same_lines(write_coco, good_pair, pictures, tmp_path):
    plain = tmp_path / "plain"
    source = write_coco(good_pair)
    run_scop(source, pictures, plain)
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "annotations/instances_train2017.json").write_bytes(source.read_bytes())
    (root / "train2017").symlink_to(pictures)
    run_scop(root, None, tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "annotations.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(source, "annotations/instances_train2017.json")
        archive.writestr("annotations/captions_train2017.json", "{}")
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.write(pictures / "000000000001.jpg", "train2017/000000000001.jpg")
    report = run_scop(tmp_path / "annotations.zip", tmp_path / "pictures.zip", tmp_path / "zipped")
    assert report.pictures == 1
    unpacked = tmp_path / "zipped/images/000000000001.jpg"
    assert unpacked.read_bytes() == (pictures / "000000000001.jpg").read_bytes()
    assert lines(plain) == lines(tmp_path / "folder") == lines(tmp_path / "zipped")
    assert sorted(path.name for path in (tmp_path / "zipped").iterdir()) == [
        "images",
        METADATA,
        "report.json",
    ]


def test_nothing_accepted_gives_an_empty_file(write_coco, tmp_path):
    out = tmp_path / "out"
    report = run_scop(write_coco([annotation(1, [0, 0, 5, 5])]), None, out)
    assert report.accepted == 0 and (out / METADATA).read_bytes() == b""
    run_scop(write_coco([]), None, tmp_path / "empty")
    assert (tmp_path / "empty" / METADATA).read_bytes() == b""


FIVE = [0, 0, 5, 5]
FAULTS = {
    "negative box": ([annotation(41, [0, 0, -5, 50])], {}, "annotation 41: bbox is .*above 0"),
    "no width": ([annotation(42, [0, 0, 0, 50])], {}, "annotation 42: bbox is .*above 0"),
    "three numbers": ([annotation(43, FIVE) | {"bbox": [0, 0, 5]}], {}, "annotation 43: bbox is"),
    "words": ([annotation(44, FIVE) | {"bbox": [0, 0, 5, "x"]}], {}, "annotation 44: bbox .*four numbers"),
    "not a number": ([annotation(45, [0, 0, float("nan"), 5])], {}, "annotation 45: bbox is .*finite"),
    "infinite": ([annotation(46, [0, 0, float("inf"), 5])], {}, "annotation 46: bbox is .*finite"),
    "NaN elsewhere": ([annotation(47, FIVE, area=float("nan"))], {}, "annotation 47: it holds NaN"),
    "unknown category": ([annotation(48, FIVE, category=99)], {}, "annotation 48: category 99 is missing"),
    "unknown image": ([annotation(49, FIVE, image=99)], {}, "annotation 49: image 99 is missing"),
    "the same id": ([annotation(50, FIVE)] * 2, {}, "annotation 50: its id comes twice"),
    "no id": ([{"bbox": FIVE}], {}, r"annotation number 0 \(it has no usable id\): id is missing"),
    "no category": ([{"id": 51, "image_id": 1, "bbox": FIVE}], {}, "annotation 51: category_id is missing"),
    "no box": ([{"id": 52, "image_id": 1, "category_id": 1}], {}, "annotation 52: bbox is missing"),
    "not an object": (["box"], {}, "annotation number 0"),
    "nameless category": ([], {"categories": [{"id": 5}]}, "category 5: its name is missing"),
    "category twice": ([], {"categories": [{"id": 5, "name": "a"}] * 2}, "category 5: its id comes twice"),
    "flat image": ([], {"images": [{"id": 6, "width": 0, "height": 5}]}, "image 6: its size is 0 x 5"),
    "no categories": ([], {"categories": None}, "no list of categories"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_malformed_annotations_are_refused_by_id_and_leave_nothing(name, write_coco, tmp_path):
    annotations, changes, message = FAULTS[name]
    with pytest.raises(AnnotationError, match=message):
        run_scop(write_coco(annotations, **changes), None, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instances.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends too early"),
        ("[]", "instead of"),
        ('{"annotations": [{"id": 3, "bbox": [1', "ends too early"),
        ('{"images": [{"id": 4, "width": 5, "height": 5}], "annotations": [', "after image 4"),
        ('{"annotations": [{"id": 3 "bbox": 1}], "x": 1}', "not JSON"),
        ('{"images": [], "images": []}', "'images' comes twice"),
        ('{"a": [' + "[" * 100_000, "not usable JSON"),
        ("\x00\x01\x02 binary", "instead of"),
    ],
)
def test_files_that_are_no_json_are_refused(text, message, tmp_path):
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=message):
        run_scop(path, None, tmp_path / "out")


def test_a_cut_file_names_the_last_whole_annotation(write_coco, good_pair, tmp_path):
    path = write_coco(good_pair)
    path.write_bytes(path.read_bytes()[: path.read_bytes().index(b'"id": 8') - 20])
    with pytest.raises(AnnotationError, match="ends too early at byte .*, after annotation 7"):
        run_scop(path, None, tmp_path / "out")


def test_unusable_annotations_can_be_left_out(write_coco, good_pair, tmp_path):
    faulty = [annotation(9, [0, 0, 9, 0]), *good_pair]
    report = run_scop(write_coco(faulty), None, tmp_path / "out", skip_invalid=True)
    assert report.skipped == (9,) and report.accepted == 1


def test_archives_that_unpack_to_too_much_are_refused(write_coco, good_pair, pictures, tmp_path, monkeypatch):
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/instances_train2017.json", b" " * (4 << 20))
    with pytest.raises(AnnotationError, match="instances_train2017.json unpacks to .* times its size"):
        run_scop(bomb, None, tmp_path / "out")
    monkeypatch.setattr(scop_input, "MAX_PICTURE_BYTES", 100)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        archive.write(pictures / "000000000001.jpg", "000000000001.jpg")
    with pytest.raises(AnnotationError, match="000000000001.jpg unpacks to .* at most 100"):
        run_scop(write_coco(good_pair), tmp_path / "pictures.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.part").exists()


def test_an_archive_whose_header_lies_is_refused(tmp_path):
    path = tmp_path / "lying.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/instances_train2017.json", b"{" + b" " * 5000 + b"}")
    data = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):  # the size in both headers
        at = data.index(signature) + offset
        data[at : at + 4] = (10).to_bytes(4, "little")
    path.write_bytes(bytes(data))
    with pytest.raises(AnnotationError, match="can't be unpacked|ends too early"):
        run_scop(path, None, tmp_path / "out")


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd", "a/../../secret.jpg"])
def test_file_names_must_not_lead_out_of_the_folder(name, good_pair, pictures, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    images = [{"id": 1, "width": 200, "height": 200, "file_name": name}]
    with pytest.raises(AnnotationError, match="image 1: its file name .* leads out"):
        run_scop(write_with_images(tmp_path, good_pair, images), pictures, tmp_path / "out")


def write_with_images(folder, annotations, images):
    path = folder / "named.json"
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def test_names_of_categories_and_files_may_hold_any_letters(good_pair, tmp_path):
    pictures = tmp_path / "bilder"
    pictures.mkdir()
    Image.new("RGB", (200, 200)).save(pictures / "Bäume 1.png")
    path = tmp_path / "named.json"
    images = [{"id": 1, "width": 200, "height": 200, "file_name": "Bäume 1.png"}]
    categories = [{"id": 1, "name": "chat 猫"}, {"id": 2, "name": "Hündin"}]
    text = json.dumps(
        {"images": images, "annotations": good_pair, "categories": categories}, ensure_ascii=False
    )
    path.write_text(text, encoding="utf-8")
    run_scop(path, pictures, tmp_path / "out")
    assert lines(tmp_path / "out")[0]["oros"][0] == ["chat 猫", "to the left of", "Hündin"]
    assert (tmp_path / "out/images/000000000001.png").is_file()


def test_a_missing_picture_is_named_and_a_used_folder_is_kept(write_coco, good_pair, pictures, tmp_path):
    (pictures / "000000000001.jpg").unlink()
    with pytest.raises(AnnotationError, match="image 1: .* holds no 000000000001.jpg"):
        run_scop(write_coco(good_pair), pictures, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="isn't an empty folder"):
        run_scop(write_coco(good_pair), None, tmp_path / "out")
    assert (tmp_path / "out/mine.txt").read_text() == "mine"


def test_a_stop_leaves_nothing(write_coco, good_pair, tmp_path):
    with pytest.raises(ScopStopped):
        run_scop(write_coco(good_pair), None, tmp_path / "out", should_stop=lambda: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["instances.json"]


STRICT = ScopParams(profile="strict")
THIRD = [annotation(9, [60, 10, 60, 40], category=1)]


@pytest.mark.parametrize(
    ("more", "accepted"),
    [
        ([], 1),
        (THIRD, 0),  # a second cat in the crop
        ([annotation(9, [60, 10, 60, 40], category=3)], 1),  # a bird may be there
        ([annotation(9, [60, 10, 9, 9], category=1)], 1),  # a cat too small to matter
        ([annotation(9, [0, 0, 190, 50], category=2, iscrowd=1)], 0),  # a crowd of dogs
    ],
)
def test_the_strict_profile_wants_both_alone_of_their_kind(more, accepted, write_coco, good_pair, tmp_path):
    params = ScopParams(profile="strict", min_bbox_area=3000)
    assert run_scop(write_coco([*good_pair, *more]), None, tmp_path / "out", params).accepted == accepted
    official = run_scop(write_coco(good_pair), None, tmp_path / "official", ScopParams(min_bbox_area=3000))
    assert official.accepted == 1


def test_the_strict_profile_wants_both_inside_a_square_crop(tmp_path, good_pair):
    wide = [{"id": 1, "width": 300, "height": 120, "file_name": "a.jpg"}]
    boxes = [annotation(1, [0, 0, 120, 110]), annotation(2, [170, 0, 120, 110], category=2)]
    path = write_with_images(tmp_path, boxes, wide)
    assert run_scop(path, None, tmp_path / "official").accepted == 1  # its crop would cut both in half
    assert run_scop(path, None, tmp_path / "strict", STRICT).accepted == 0


def test_mirror_images_and_weights(write_coco, good_pair, pictures, tmp_path):
    report = run_scop(write_coco(good_pair), pictures, tmp_path / "out", STRICT, ScopOutput(mirror=True))
    first, second = lines(tmp_path / "out")
    assert report.accepted == 1 and report.lines == 2
    assert second["mirrored"] and second["oros"][0] == ["cat", "to the right of", "dog"]
    assert first["weight"] == second["weight"] == 1.0
    with pytest.raises(ValueError, match="mirror images belong to the strict profile"):
        run_scop(write_coco(good_pair), None, tmp_path / "no", output=ScopOutput(mirror=True))


def test_rare_classes_weigh_more(write_coco, tmp_path):
    boxes = [
        annotation(10 * image + k, [10 + 100 * k, 60, 80, 80], image, 1 + k)
        for image in (1, 2, 3)
        for k in (0, 1)
    ]
    boxes += [annotation(90 + k, [10 + 100 * k, 60, 80, 80], 4, 1 + 2 * k) for k in (0, 1)]
    run_scop(write_coco(boxes, 4), None, tmp_path / "out", STRICT)
    weights = [line["weight"] for line in lines(tmp_path / "out")]
    assert weights[3] > weights[0] == weights[1] == weights[2] and np.mean(weights) == pytest.approx(
        1, abs=1e-5
    )


def test_chunks_and_large_images_change_nothing(tmp_path, monkeypatch):
    file = tmp_path / "made.json"
    write_annotations(file, boxes=240, images=6, seed=3)
    loose = ScopParams(min_bbox_area=0, visual_significance=0.01, spatial_clarity=9)
    whole = run_scop(file, None, tmp_path / "whole", loose)
    monkeypatch.setattr(scop_mine, "_CHUNK_PAIRS", 7)
    small = run_scop(file, None, tmp_path / "small", loose)
    assert whole.accepted == small.accepted > 20 and whole.pairs == small.pairs
    assert (tmp_path / "whole" / METADATA).read_bytes() == (tmp_path / "small" / METADATA).read_bytes()


def test_masks_are_written_once_for_each_object(write_coco, good_pair, pictures, tmp_path):
    out = tmp_path / "out"
    run_scop(write_coco(good_pair), pictures, out)
    calls = []

    def segment(picture, boxes):
        calls.append(list(boxes))
        masks = np.zeros((len(boxes), picture.height, picture.width), bool)
        for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
            mask[int(top) : int(bottom), int(left) : int(right)] = True
        return masks

    assert write_masks(out, segment) == 2 and write_masks(out, segment) == 0 and len(calls) == 1
    assert calls[0] == [(10, 60, 90, 140), (110, 60, 190, 140)]
    record = next(read_pairs(out))
    path = out / mask_path(record, "dog")
    assert path.relative_to(out) == Path("masks/000000000001/mask_000000000001_dog.0.png")
    with Image.open(path) as mask:
        pixels = np.asarray(mask)
    assert set(np.unique(pixels)) == {0, 255} and pixels[100, 150] == 255 and pixels[100, 50] == 0
    with pytest.raises(ValueError, match="gave masks"):
        (out / mask_path(record, "cat")).unlink()
        write_masks(out, lambda picture, boxes: np.zeros((1, 2, 2), bool))
