"""Readers on small folders made here: layouts, mask values, and every kind of broken input."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from intaglio.cli.pictures import read_input
from intaglio.data import color_map, colorize, open_dataset, overlay, read_image
from intaglio.spec.errors import IntaglioError

RNG = np.random.default_rng(7)


def save_image(path: Path, height: int, width: int) -> np.ndarray:
    """Write an image losslessly (PNG content, whatever the name says) and return its pixels."""
    pixels = RNG.integers(0, 256, (height, width, 3)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, format="PNG")
    return pixels


def save_mask(path: Path, mask, *, palette: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(mask, np.uint8))
    if palette:
        picture.putpalette(color_map(256).tobytes())
        assert picture.mode == "P"
    picture.save(path, format="PNG")


class Made:
    """One data set of two samples, 4x6, and where its parts are."""

    def __init__(self, kind: str, root: Path) -> None:
        self.spec = f"{kind}:{root}"
        self.stored = np.zeros((4, 6), np.uint8)
        self.pixels = []
        palette = kind == "voc"
        if kind == "voc":
            base = root / "VOC2012"
            self.images = [base / "JPEGImages" / f"{n}.jpg" for n in ("b", "a")]
            self.masks = [base / "SegmentationClass" / f"{n}.png" for n in ("b", "a")]
            self.list = base / "ImageSets" / "Segmentation" / "train.txt"
            self.text = "b\n\na\n"
            self.stored[0] = [0, 20, 255, 1, 2, 3]
            self.expected = self.stored.copy()
            self.bad, self.allowed = 21, "0..20 and 255"
        elif kind == "camvid":
            self.images = [root / "train" / f"{n}.jpg" for n in ("b", "a")]
            self.masks = [root / "trainannot" / f"{n}.png" for n in ("b", "a")]
            self.list = root / "train.txt"
            self.text = (
                "train/b.jpg trainannot/b.png\n/SegNet/CamVid/train/a.jpg /x/trainannot/a.png\n"
            )
            self.stored[0] = [0, 10, 11, 1, 2, 3]
            self.expected = self.stored.copy()
            self.expected[0, 2] = 255
            self.bad, self.allowed = 255, "0..11"
        else:
            self.images = [root / "images" / "training" / f"{n}.jpg" for n in ("a", "b")]
            self.masks = [root / "annotations" / "training" / f"{n}.png" for n in ("a", "b")]
            self.list = root / "objectInfo150.txt"
            rows = [f"{i}\t0.1\t5\t6\tname {i}, other" for i in range(1, 151)]
            self.text = "\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]) + "\n"
            self.stored[0] = [0, 150, 1, 2, 3, 4]
            self.expected = np.full((4, 6), 255, np.uint8)
            self.expected[0] = [255, 149, 0, 1, 2, 3]
            self.bad, self.allowed = 151, "0..150"
        for image, mask in zip(self.images, self.masks, strict=True):
            self.pixels.append(save_image(image, 4, 6))
            save_mask(mask, self.stored, palette=palette)
        self.list.parent.mkdir(parents=True, exist_ok=True)
        self.list.write_text(self.text)
        self.palette = palette

    def open(self, split: str = "train", **size):
        return open_dataset(self.spec, split, **size)


@pytest.fixture(params=["voc", "camvid", "ade20k"])
def made(request, tmp_path):
    return Made(request.param, tmp_path)


def one_line(info) -> str:
    text = str(info.value)
    assert "\n" not in text
    return text


def test_reads_in_order_with_class_indices(made):
    data = made.open()
    assert len(data) == 2
    assert [s.name for s in data] == [p.stem for p in made.images]
    for sample, pixels in zip(data, made.pixels, strict=True):
        assert sample.image.dtype == np.uint8 and np.array_equal(sample.image, pixels)
        assert sample.mask.dtype == np.uint8 and np.array_equal(sample.mask, made.expected)
        assert not sample.image.flags.writeable and not sample.mask.flags.writeable
    assert data.palette.shape == (len(data.classes), 3) and data.palette.dtype == np.uint8
    assert len(data.classes) == {"voc": 21, "camvid": 11, "ade20k": 150}[data.name]
    with pytest.raises(IndexError, match=r"sample 2 is outside \[0, 1\]"):
        data[2]


def test_samples_are_kept(made):
    data = made.open(height=2, width=3)
    data.preload(progress=False)
    for path in made.images + made.masks:
        path.unlink()
    assert data[0].image.shape == (2, 3, 3) and data[1].mask.shape == (2, 3)
    assert data[0].image is data[0].image


def test_cache_has_a_bound(made, monkeypatch):
    monkeypatch.setattr("intaglio.data.dataset.CACHE_BYTES", 4 * 6 * 4)
    data = made.open()
    data.preload(progress=False)
    assert data[0].image is data[0].image
    assert data[1].image is not data[1].image
    assert np.array_equal(data[1].image, made.pixels[1])


def test_size_is_fitted_and_padded(made):
    sample = made.open(height=8, width=6)[0]
    assert np.array_equal(sample.image[2:6], made.pixels[0])
    assert np.array_equal(sample.mask[2:6], made.expected)
    assert (sample.image[[0, 1, 6, 7]] == 128).all() and (sample.mask[[0, 1, 6, 7]] == 255).all()
    with pytest.raises(ValueError, match="height and width go together, not 8 and None"):
        made.open(height=8)
    with pytest.raises(ValueError, match="width must be >= 1, not 0"):
        made.open(height=8, width=0)


def test_missing_folder(made, tmp_path):
    kind = made.spec.partition(":")[0]
    with pytest.raises(IntaglioError) as info:
        open_dataset(f"{kind}:{tmp_path / 'absent'}", "train")
    text = one_line(info)
    assert text.startswith(f"{tmp_path / 'absent'}: no such folder; expected layout: ")
    assert {"voc": "JPEGImages", "camvid": "trainannot", "ade20k": "annotations"}[kind] in text


def test_missing_list_or_table(made):
    made.list.unlink()
    with pytest.raises(IntaglioError) as info:
        made.open()
    assert one_line(info).startswith(f"{made.list}: no such list file; expected layout: ")


def test_empty_list(made):
    made.list.write_text("\n  \n")
    with pytest.raises(IntaglioError) as info:
        made.open()
    assert one_line(info) == f"{made.list}: the list is empty"


def test_list_is_not_text(made):
    made.list.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IntaglioError) as info:
        made.open()
    assert one_line(info).startswith(f"{made.list}: cannot be read: ")


def test_unknown_split(made):
    kind = made.spec.partition(":")[0]
    with pytest.raises(IntaglioError, match=f"{kind} has no split 'x'; choose from train, val"):
        made.open("x")


@pytest.mark.parametrize("what", ["image", "mask"])
def test_missing_file(made, what):
    path = (made.images if what == "image" else made.masks)[1]
    path.unlink()
    if what == "image" and made.spec.startswith("ade20k"):
        assert len(made.open()) == 1  # there the folder is the list
        return
    data = made.open()
    assert np.array_equal(data[0].mask, made.expected)
    with pytest.raises(IntaglioError) as info:
        data.preload(progress=False)
    assert one_line(info) == f"{path}: no such {what}"


@pytest.mark.parametrize("what", ["image", "mask"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "flipped"])
def test_broken_file(made, what, damage):
    path = (made.images if what == "image" else made.masks)[0]
    content = path.read_bytes()
    broken = {
        "truncated": content[: len(content) * 2 // 3],
        "empty": b"",
        "text": b"this is no picture\n" * 20,
        "flipped": content[:45] + bytes(b ^ 0xFF for b in content[45:60]) + content[60:],
    }[damage]
    path.write_bytes(broken)
    with pytest.raises(IntaglioError) as info:
        made.open()[0]
    assert one_line(info).startswith(f"{path}: broken {what}: ")


def test_truncated_jpeg(made):
    path = made.images[0]
    Image.fromarray(made.pixels[0].repeat(20, 0).repeat(20, 1)).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(IntaglioError) as info:
        made.open()[0]
    assert one_line(info).startswith(f"{path}: broken image: ")


def test_value_out_of_range(made):
    made.stored[2, 5] = made.bad
    save_mask(made.masks[0], made.stored, palette=made.palette)
    with pytest.raises(IntaglioError) as info:
        made.open()[0]
    assert one_line(info) == (
        f"{made.masks[0]}: value {made.bad} at row 2, column 5 is no class; "
        f"allowed are {made.allowed}"
    )


def test_sizes_differ(made):
    save_mask(made.masks[0], made.stored[:3], palette=made.palette)
    with pytest.raises(IntaglioError) as info:
        made.open()[0]
    assert one_line(info) == (
        f"{made.masks[0]}: the mask is 6x3, but the image {made.images[0]} is 6x4 (width x height)"
    )


def test_mask_in_colour(made):
    save_image(made.masks[0], 4, 6)
    with pytest.raises(IntaglioError) as info:
        made.open()[0]
    assert one_line(info) == (
        f"{made.masks[0]}: a mask holds one class index per pixel (palette or 8-bit grayscale), "
        "this file is RGB"
    )


def test_camvid_line_with_one_field(tmp_path):
    made = Made("camvid", tmp_path)
    made.list.write_text("train/b.jpg trainannot/b.png\ntrain/a.jpg\n")
    with pytest.raises(IntaglioError) as info:
        made.open()
    assert one_line(info) == f"{made.list}: entry 2 has 1 fields, expected 'IMAGE MASK'"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.replace("\n150\t", "\n151\t"), "entry 150 is not 'Idx Ratio Train Val Name'"),
        (lambda t: t.partition("\n150\t")[0], "149 classes below the head line, expected 150"),
    ],
)
def test_ade20k_class_table(tmp_path, edit, message):
    made = Made("ade20k", tmp_path)
    assert made.open().classes[:2] == ("name 1", "name 2")
    made.list.write_text(edit(made.text))
    with pytest.raises(IntaglioError) as info:
        made.open()
    assert one_line(info) == f"{made.list}: {message}"


def test_ade20k_without_images(tmp_path):
    made = Made("ade20k", tmp_path)
    for path in made.images:
        path.unlink()
    with pytest.raises(IntaglioError, match="training: no .jpg file; expected layout: "):
        made.open()


def test_voc_splits_and_both_roots(tmp_path):
    made = Made("voc", tmp_path)
    base = tmp_path / "VOC2012"
    (made.list.parent / "trainaug.txt").write_text("a\n")
    with pytest.raises(IntaglioError, match="SegmentationClassAug: no such folder"):
        made.open("trainaug")
    other = np.full((4, 6), 8, np.uint8)
    save_mask(base / "SegmentationClassAug" / "a.png", other)  # grayscale, as some releases have it
    assert np.array_equal(made.open("trainaug")[0].mask, other)
    assert np.array_equal(open_dataset(f"voc:{base}", "train")[1].mask, made.expected)
    data = made.open()
    main = [data.classes[k] for k in data.main_classes]
    assert main == ["background", "cat", "cow", "dog", "horse", "person", "sheep"]


@pytest.mark.parametrize("spec", ["cityscapes:x", "voc", "voc:", "shapes:x", ""])
def test_unknown_name(spec):
    with pytest.raises(IntaglioError) as info:
        open_dataset(spec, "train")
    assert one_line(info) == (
        f"unknown data set {spec!r}; choose from shapes, camvid:DIR, voc:DIR, ade20k:DIR"
    )


def test_read_image_converts(tmp_path):
    gray = np.arange(24, dtype=np.uint8).reshape(4, 6)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.stack([gray] * 3, -1))
    with pytest.raises(IntaglioError, match="broken image: "):
        read_image(_write(tmp_path / "x.png", b"GIF89a"))


@pytest.mark.parametrize("name, kind", [("a.png", "<u2"), ("a.tif", "<u2"), ("b.tif", ">u2")])
def test_read_image_takes_the_upper_half_of_16_bits(tmp_path, name, kind):
    gray = np.array([[0, 255, 256, 0x1234], [0x7FFF, 0x8000, 0xFF00, 0xFFFF]], np.uint16)
    Image.fromarray(gray.astype(kind)).save(tmp_path / name)
    found = read_image(tmp_path / name)
    assert found.dtype == np.uint8 and np.array_equal(found, np.stack([gray >> 8] * 3, -1))


@pytest.mark.parametrize(
    "kind, what", [(np.int32, "I (32-bit integers)"), (np.float32, "F (floating point)")]
)
def test_read_image_refuses_ranges_that_it_cannot_know(tmp_path, kind, what):
    path = tmp_path / "a.tif"
    Image.fromarray(np.zeros((4, 6), kind)).save(path)
    with pytest.raises(IntaglioError) as info:
        read_image(path)
    assert one_line(info) == (f"{path}: an image has 8 or 16 bits per channel, this file is {what}")


@pytest.mark.parametrize(
    "orientation, turn",
    [
        (1, lambda x: x),
        (3, lambda x: np.rot90(x, 2)),
        (6, lambda x: np.rot90(x, -1)),
        (8, np.rot90),
    ],
)
def test_photos_are_upright_and_images_with_masks_as_stored(tmp_path, orientation, turn):
    pixels = np.random.default_rng(1).integers(0, 256, (8, 16, 3), np.uint8)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path, exif=exif)
    assert np.array_equal(read_image(path), pixels)
    turned = turn(pixels)
    assert np.array_equal(read_image(path, upright=True), turned)
    assert np.array_equal(read_input(path, *turned.shape[:2]), turned)


def test_a_photo_with_an_odd_tag_is_turned(tmp_path):
    """Its maker is a double, which Pillow reads but does not write."""
    path = tmp_path / "photo.jpg"
    tags = struct.pack("<HHHIIHHIII", 2, 0x112, 3, 1, 6, 0x10F, 12, 1, 8, 0)
    exif = b"Exif\0\0" + struct.pack("<2sHI", b"II", 42, 8) + tags
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(path, exif=exif)
    assert read_image(path, upright=True).shape == (16, 8, 3)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_color_map_is_the_published_one():
    # The first colours of the VOC development kit, as printed in its documentation.
    expected = [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128),
        (0, 128, 128), (128, 128, 128), (64, 0, 0), (192, 0, 0), (64, 128, 0), (192, 128, 0),
    ]  # fmt: skip
    colors = color_map(256)
    assert [tuple(c) for c in colors[:12].tolist()] == expected
    assert tuple(colors[20]) == (0, 64, 128) and tuple(colors[255]) == (224, 224, 192)


def test_overlay_by_hand():
    image = np.array([[[10, 20, 30], [101, 1, 255], [7, 8, 9]]], np.uint8)
    mask = np.array([[1, 0, 255]], np.uint8)
    palette = np.array([[0, 0, 0], [200, 101, 31]], np.uint8)
    mixed = overlay(image, mask, palette)
    assert mixed.dtype == np.uint8
    assert mixed.tolist() == [[[105, 61, 31], [51, 1, 128], [7, 8, 9]]]  # halves round up
    assert np.array_equal(overlay(image, mask, palette, opacity=0), image)
    full = overlay(image, mask, palette, opacity=256)
    assert full.tolist() == [[[200, 101, 31], [0, 0, 0], [7, 8, 9]]]
    assert colorize(mask, palette).tolist() == [[[200, 101, 31], [0, 0, 0], [255, 255, 255]]]


def test_overlay_errors():
    image, mask = np.zeros((2, 2, 3), np.uint8), np.full((2, 2), 3, np.uint8)
    with pytest.raises(ValueError, match=r"class 3 is outside \[0, 1\] and not void"):
        overlay(image, mask, color_map(2))
    with pytest.raises(ValueError, match="opacity must be in .*, not 300"):
        overlay(image, mask, color_map(4), opacity=300)
    with pytest.raises(ValueError, match="different sizes"):
        overlay(image[:1], mask, color_map(4))
