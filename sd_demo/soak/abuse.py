"""Files and requests that nobody means well with: each gets a typed answer, and the server stays as it was."""

from __future__ import annotations

import io
import json
import random
import struct
import time
import zlib
from collections import Counter
from typing import Any, Final

import httpx
from PIL import Image

from sd_demo.soak.server import Answer, Server, positional

MEMORY_MB: Final = 300
FILE_S: Final = 2.0
VALUES: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 7.5, 1e308, float("nan"), float("inf"), 2**64, "", "a ball", "x" * 5000, "\x00", "🎈",
    [], [1], {}, {"a": 1}, {"path": "/etc/passwd"}, {"path": "http://127.0.0.1:9/x.png"}, {"url": "file:///etc/passwd"},
    "euler", "../../etc/passwd", "'; DROP TABLE x; --", "<script>alert(1)</script>", [[[[[]]]]], -(2**31),
)  # fmt: skip


def pictures(server: Server, scale: float) -> dict[str, Any]:
    """300 picture files of the nasty kinds: memory grows at most 300 MB, each is answered within 2 s."""
    count = max(len(KINDS), round(300 * scale))
    before = most = server.metric("sd_demo_resident_bytes") / 1e6
    slowest, answered, kinds = 0.0, Counter[str](), list(KINDS)
    for k in range(count):
        kind = kinds[k % len(kinds)]
        start = time.perf_counter()
        uploaded = server.upload(KINDS[kind](random.Random(k)), f"{kind}.png")  # noqa: S311 # a seed, not a secret
        values: dict[str, Any] = {"prompt": "a ball", "image": uploaded, "strength": 0.1, "num_inference_steps": 1}
        answer = server.call("image_to_image", **values) if uploaded else Answer("error", 0.0)
        made_s = sum(
            one["done"]["encode_s"] + one["done"]["denoise_s"] + one["done"]["decode_s"] for one in answer.receipts
        )
        slowest = max(slowest, time.perf_counter() - start - made_s)
        answered[answer.kind] += 1
        most = max(most, server.metric("sd_demo_resident_bytes") / 1e6)
    has_held = set(answered) <= {"picture", "error"} and most - before <= MEMORY_MB and slowest < FILE_S
    return {
        "holds": has_held and server.is_up, "files": count, **answered, "growth_mb": round(most - before),
        "slowest_s_beside_the_model": round(slowest, 2),
    }  # fmt: skip


def fuzz(server: Server, scale: float) -> dict[str, Any]:
    """3,000 random requests to every route that the server publishes: none without a typed answer."""
    count = max(20, round(3000 * scale))
    chance = random.Random(6)  # noqa: S311 # repeatable on purpose
    endpoints = [name.strip("/") for name in server.http.get("/gradio_api/info").json()["named_endpoints"]]
    functions = len(server.http.get("/config").json()["dependencies"])
    kinds, untyped = Counter[str](), []
    for _ in range(count):
        answer = _one(server, chance, endpoints, functions)
        kinds[answer.kind] += 1
        if answer.kind == "untyped":
            untyped.append(answer.text)
    answers = dict(kinds) | {"first_untyped": untyped[:3]}
    return {"holds": not untyped and server.is_up, "requests": count, "endpoints": len(endpoints), **answers}


def _one(server: Server, chance: random.Random, endpoints: list[str], functions: int) -> Answer:
    way = chance.choice(("call", "call", "join", "run", "component", "file", "raw"))
    data = [chance.choice(VALUES) for _ in range(chance.choice((0, 1, 8, 11, 12, 13, 14, 40)))]
    name = chance.choice(endpoints)
    if way == "call":
        if name == "text_to_image":  # a valid one must not take minutes
            data = positional(name, {"prompt": chance.choice(VALUES), "width": 64, "height": 64} | _two(chance))
        return server.call_raw(name, data)
    api = "/gradio_api"
    body: Any = {"data": data, "fn_index": chance.randrange(-1, functions + 2), "session_hash": chance.choice(VALUES)}
    if way == "component":
        body = {**body, "component_id": chance.choice((1, 10**9, *VALUES)), "fn_name": chance.choice(("x", *VALUES))}
        return _typed(server, "POST", f"{api}/component_server", json.dumps(body))
    if way == "file":
        return _typed(server, "GET", f"{api}/file={chance.choice(('/etc/passwd', 'http://127.0.0.1:9/', '..', '%00'))}")
    if way == "raw":
        noise = chance.randbytes(chance.randrange(200))
        route = chance.choice(("upload", "component_server", "queue/join", f"call/{name}", "cancel", "reset"))
        return _typed(server, "POST", f"{api}/{route}", noise)
    route = "queue/join" if way == "join" else f"run/{chance.choice((name, 'predict', 'x'))}"
    return _typed(server, "POST", f"{api}/{route}", json.dumps(body))


def _two(chance: random.Random) -> dict[str, Any]:
    return {"num_inference_steps": 1, chance.choice(("seed", "scheduler", "guidance_scale")): chance.choice(VALUES)}


def _typed(server: Server, method: str, path: str, content: str | bytes = b"") -> Answer:
    start = time.perf_counter()
    try:
        response = server.http.request(
            method, path, content=content, headers={"content-type": "application/json"}, timeout=60
        )
    except httpx.HTTPError as error:
        return Answer("untyped", time.perf_counter() - start, f"{path}: {type(error).__name__}")
    kind = response.headers.get("content-type", "")
    is_typed = kind.startswith(("application/json", "text/plain"))
    text = f"{response.status_code} {method} {path}: {response.text[:120]}"
    return Answer("error" if is_typed else "untyped", time.perf_counter() - start, text)


def _encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _bomb(chance: random.Random) -> bytes:
    """A PNG that claims 200 megapixels and is 100 bytes."""
    head = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(chance.randbytes(20)))


def _noise(chance: random.Random, mode: str = "RGB", side: int = 96) -> Image.Image:
    return Image.frombytes("RGB", (side, side), chance.randbytes(3 * side * side)).convert(mode)


def _exif(chance: random.Random) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = chance.randrange(1, 9)
    return _encoded(_noise(chance), "JPEG", exif=exif)


def _animated(chance: random.Random) -> bytes:
    frames = [_noise(chance) for _ in range(5)]
    return _encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


KINDS: Final = {
    "bomb": _bomb,
    "large": lambda chance: _encoded(Image.new("RGB", (3000, 3000), (chance.randrange(256), 0, 0))),
    "truncated png": lambda chance: _encoded(_noise(chance))[: chance.randrange(20, 5000)],
    "truncated jpeg": lambda chance: _encoded(_noise(chance), "JPEG")[: chance.randrange(20, 2000)],
    "16-bit": lambda chance: _encoded(Image.frombytes("I;16", (96, 96), chance.randbytes(2 * 96 * 96))),
    "cmyk": lambda chance: _encoded(_noise(chance, "CMYK"), "JPEG"),
    "exif": _exif,
    "animated": _animated,
    "svg": lambda _: b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "polyglot": lambda chance: _encoded(_noise(chance)) + b"<html><script>alert(1)</script></html>PK\x03\x04",
    "noise": lambda chance: chance.randbytes(3000),
    "empty": lambda _: b"",
}
