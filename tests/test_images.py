"""Pictures of every kind that people and scripts send: each gives plain pixels or one sentence."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFile

from sd_demo.errors import InvalidImage
from sd_demo.images import MAX_BYTES, MAX_PIXELS, fingerprint, read_mask, read_picture, size_in_file

RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)
SENTENCE = re.compile(r"^\w+:? .*\.$")  # names the field first, ends in a full stop, one line


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def corners(width: int = 64, height: int = 48) -> Image.Image:
    """Red above left, green above right, blue below left, white below right."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste((0, 255, 0), (width // 2, 0, width, height // 2))
    image.paste((0, 0, 255), (0, height // 2, width // 2, height))
    return image


def half_transparent(mode: str) -> Image.Image:
    """Left half dark and opaque, right half dark and fully transparent."""
    image = Image.new("RGBA", (64, 48), (40, 40, 40, 255))
    image.paste((40, 40, 40, 0), (32, 0, 64, 48))
    return image.convert(mode)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims this many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


def frames() -> dict[str, object]:
    return {"save_all": True, "append_images": [Image.new("RGB", (64, 48), c) for c in (BLACK, RED)]}


def palette_with_transparency() -> bytes:
    image = Image.new("P", (64, 48), 0)
    image.putpalette([*RED, 0, 0, 255])
    image.paste(1, (32, 0, 64, 48))
    return encoded(image, transparency=1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_formats_give_the_same_pixels(kind: str) -> None:
    data = encoded(corners(), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert fingerprint(read_picture(data)) == fingerprint(corners())


def test_a_file_a_path_bytes_and_an_image_are_alike(tmp_path: Path) -> None:
    path = tmp_path / "corners.png"
    corners().save(path)
    prints = {fingerprint(read_picture(s)) for s in (path, str(path), path.read_bytes(), corners())}
    assert len(prints) == 1


def test_the_format_is_read_from_the_file_not_from_its_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(corners(), "PNG"))
    assert fingerprint(read_picture(path)) == fingerprint(corners())


def test_a_polyglot_is_read_as_the_picture_it_is() -> None:
    assert read_picture(encoded(corners()) + b"PK\x03\x04 <script>alert(1)</script>").size == (64, 48)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "RGBa", "La"])
def test_transparent_parts_lie_on_white(mode: str) -> None:
    read = read_picture(half_transparent("LA" if mode == "La" else "RGBA").convert(mode))
    assert read.mode == "RGB"
    assert read.getpixel((10, 10)) == (40, 40, 40)
    assert read.getpixel((50, 10)) == WHITE


def test_palette_transparency_lies_on_white() -> None:
    read = read_picture(palette_with_transparency())
    assert read.getpixel((10, 10)) == RED
    assert read.getpixel((50, 10)) == WHITE


def test_colour_key_transparency_lies_on_white() -> None:
    read = read_picture(encoded(corners(), transparency=(0, 0, 255)))
    assert read.getpixel((10, 40)) == WHITE
    assert read.getpixel((10, 10)) == RED


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.uint16([[0, 32768, 65535]]), "PNG"),
        (np.uint16([[0, 32768, 65535]]), "TIFF"),
        (np.int32([[0, 32768, 65535]]), "TIFF"),
        (np.int32([[-5, 128, 255]]), "TIFF"),
        (np.float32([[0, 0.502, 1]]), "TIFF"),
        (np.float32([[np.nan, 128, 255]]), "TIFF"),
        (np.float32([[-np.inf, 0.502, np.inf]]), "TIFF"),
        (np.float32([[0, 5e30, 1e31]]), "TIFF"),
    ],
)
def test_deep_pictures_keep_their_range(values: np.ndarray, kind: str) -> None:
    data = encoded(Image.fromarray(np.repeat(np.repeat(values, 16, 0), 16, 1)), kind)
    read = read_picture(data)
    assert [read.getpixel((x, 8)) for x in (8, 24, 40)] == [BLACK, (128, 128, 128), WHITE]


def test_a_dark_16_bit_picture_stays_dark() -> None:
    dark = Image.fromarray(np.full((32, 32), 200, np.uint16))
    assert read_picture(encoded(dark)).getpixel((8, 8)) == (1, 1, 1)


@pytest.mark.parametrize("mode", ["1", "L", "YCbCr", "HSV", "CMYK", "RGBX"])
def test_other_modes_become_rgb(mode: str) -> None:
    read = read_picture(Image.new("RGB", (32, 32), WHITE).convert(mode))
    assert (read.mode, read.getpixel((3, 3))) == ("RGB", WHITE)


def test_a_print_shop_jpeg_keeps_its_colours() -> None:
    red, green, blue = read_picture(encoded(Image.new("RGB", (32, 32), RED).convert("CMYK"), "JPEG")).getpixel((9, 9))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_turned_phone_photo_stands_upright(orientation: int, kind: str) -> None:
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = corners().transpose(back[orientation]) if orientation in back else corners()
    exif = Image.Exif()
    exif[0x0112] = orientation
    read = read_picture(encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})))
    assert fingerprint(read) == fingerprint(corners())


@pytest.mark.parametrize(("orientation", "size"), [(None, (64, 48)), (1, (64, 48)), (3, (64, 48)), (6, (48, 64))])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_the_size_of_an_upright_picture_is_read_without_decoding_it(
    kind: str, orientation: int | None, size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    file = tmp_path / "picture"
    file.write_bytes(encoded(Image.new("RGB", (64, 48)), kind, **({"exif": exif} if orientation else {})))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    assert size_in_file(file) == size
    file.write_bytes(b"no picture")
    assert size_in_file(file) is None


def test_nothing_of_the_metadata_comes_along() -> None:
    exif = Image.Exif()
    exif[0x010E] = "a secret"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    read = read_picture(encoded(corners(), "JPEG", exif=exif, icc_profile=profile, comment="a secret"))
    assert read.info == {}
    assert dict(read.getexif()) == {}
    assert b"secret" not in encoded(read)


@pytest.mark.parametrize("profile", [b"", b"nonsense", b"\x00" * 5000])
def test_a_broken_colour_profile_does_no_harm(profile: bytes) -> None:
    assert fingerprint(read_picture(encoded(corners(), icc_profile=profile))) == fingerprint(corners())


def test_a_jpeg_with_a_second_picture_behind_it_is_its_first() -> None:
    data = encoded(Image.new("RGB", (64, 48), RED), "MPO", **frames())
    assert read_picture(data).getpixel((9, 9))[0] > 250


def test_odd_metadata_is_no_reason_to_warn() -> None:
    damaged = encoded(corners(), "JPEG", exif=b"Exif\x00\x00II*\x00\x08\x00\x00\x00\xff\xffgarbage")
    assert read_picture(damaged).size == (64, 48)


PNG, JPEG = encoded(corners()), encoded(corners(), "JPEG")
REFUSED = {
    "no bytes": b"",
    "text": b"not a picture at all, only words",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="9" height="9"/></svg>',
    "html": b"<!doctype html><html><img src=x></html>",
    "pdf": b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\nshowpage\n",
    "ppm": b"P6 64 64 255\n" + bytes(64 * 64 * 3),
    "numbers only": bytes(4096),
    "truncated png": PNG[: len(PNG) // 2],
    "truncated jpeg": JPEG[: len(JPEG) // 2],
    "png header only": PNG[:40],
    "jpeg header only": JPEG[:20],
    "damaged png": PNG[:60] + bytes(20) + PNG[80:],
    "moving gif": encoded(corners(), "GIF", **frames()),
    "moving png": encoded(corners(), "PNG", **frames()),
    "moving webp": encoded(corners(), "WEBP", **frames()),
    "tiff of three pages": encoded(corners(), "TIFF", **frames()),
    "200 megapixels": png_claiming(20_000, 10_000),
    "100 megapixels": png_claiming(10_000, 10_000),
    "30 megapixels": png_claiming(6_000, 5_000),
    "a line": encoded(Image.new("RGB", (400, 16))),
    "a dot": encoded(Image.new("RGB", (1, 1))),
    "15 pixels": encoded(Image.new("RGB", (15, 64))),
    "no pixels": png_claiming(0, 64),
    "too many bytes": PNG + bytes(MAX_BYTES),
    "text bomb": PNG[:33] + png_chunk(b"zTXt", b"a\x00\x00" + zlib.compress(bytes(80_000_000))) + PNG[33:],
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("read", [read_picture, read_mask])
def test_what_is_no_usable_picture_is_refused_in_one_sentence(name: str, read: Callable[..., Image.Image]) -> None:
    with pytest.raises(InvalidImage, match=SENTENCE) as caught:
        read(REFUSED[name], field="image")
    assert caught.value.field == "image"
    assert "image" in str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF"])
def test_an_unread_image_of_a_damaged_file_is_refused(kind: str) -> None:
    data = encoded(corners(512, 512), kind)
    with pytest.raises(InvalidImage, match=SENTENCE):
        read_picture(Image.open(io.BytesIO(data[: len(data) * 2 // 3])))


@pytest.mark.parametrize("name", ["gone.png", "x" * 300, "nul\x00.png", ""])
def test_a_file_that_is_not_there_is_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidImage, match=SENTENCE):
        read_picture(str(tmp_path / name))


@given(st.sampled_from([PNG, JPEG, encoded(corners(), "TIFF"), encoded(corners(), "GIF")]), st.data())
def test_any_damage_gives_pixels_or_one_sentence(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 6))):
        damaged[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    answer = ""
    try:
        mode = read_picture(bytes(damaged)).mode
    except InvalidImage as refusal:
        mode, answer = "", str(refusal)
    assert mode == "RGB" or SENTENCE.match(answer)


@pytest.mark.parametrize(
    ("source", "repainted"),
    [
        (Image.new("L", (32, 32), 127), False),
        (Image.new("L", (32, 32), 128), True),
        (Image.new("1", (32, 32), 1), True),
        (Image.new("I;16", (32, 32), 65535), True),
        (Image.new("I;16", (32, 32), 255), False),
        (Image.new("F", (32, 32), 1.0), True),
        (Image.new("RGBA", (32, 32), (255, 255, 255, 255)), True),
        (Image.new("RGBA", (32, 32), (255, 255, 255, 0)), False),
        (Image.new("LA", (32, 32), (255, 0)), False),
        (Image.new("RGB", (32, 32), RED), False),
    ],
)
def test_a_mask_is_black_and_white(source: Image.Image, repainted: bool) -> None:
    mask = read_mask(source)
    assert mask.mode == "L"
    assert mask.getextrema() == ((255, 255) if repainted else (0, 0))


def test_a_mask_with_soft_edges_becomes_hard() -> None:
    ramp = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (32, 1)))
    assert {value for _, value in read_mask(ramp).getcolors()} == {0, 255}


def test_the_fingerprint_tells_pictures_apart() -> None:
    assert fingerprint(corners()) != fingerprint(corners().transpose(Image.Transpose.ROTATE_180))
    assert fingerprint(Image.new("RGB", (16, 32))) != fingerprint(Image.new("RGB", (32, 16)))


MEASURE = """
import resource, sys
from sd_demo.images import read_picture
def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
before = peak_mib()
read_picture(sys.argv[1])
print(peak_mib() - before)
"""


@pytest.mark.parametrize("mode", ["RGBA", "F", "CMYK"])
def test_the_largest_picture_is_read_in_bounded_memory(mode: str, tmp_path: Path) -> None:
    width, height = 5000, MAX_PIXELS // 5000
    kind, options = ("JPEG", {"progressive": True}) if mode == "CMYK" else ("TIFF", {"compression": "tiff_lzw"})
    path = tmp_path / f"large.{kind.lower()}"
    Image.new(mode, (width, height)).save(path, kind, **options)
    measured = subprocess.run([sys.executable, "-c", MEASURE, path], capture_output=True, text=True, check=True)
    assert float(measured.stdout) < 300
