"""A small process that decodes images. It is run by its path and imports neither rheostat nor torch.

    python image_worker.py IMAGES_PY

A request is a line of JSON (bytes, formats, mode, most_pixels, width, height, resize) and the image's bytes; an answer
is a line of JSON and the resized pixels. The process ends when its input ends. Its memory is limited, it cannot write
files, and the server kills it when an answer takes too long.
"""

from __future__ import annotations

import json
import runpy
import sys

READY = b"ready\n"
MEMORY = 2**30
"""Bytes of address space."""


def limited() -> None:
    """Limit this process's memory and files, on systems that support it."""
    try:
        import resource
    except ImportError:
        return
    for what, most in (("RLIMIT_AS", MEMORY), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        resource.setrlimit(getattr(resource, what), (most, most))


def serve(images: str) -> None:
    """Answer requests until the input ends."""
    from PIL import Image

    found = runpy.run_path(images, run_name="images")
    decode, fitted, problem_kind = found["decode"], found["fitted"], found["ImageProblem"]
    Image.preinit()
    Image.init()
    limited()
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sink.write(READY)
    sink.flush()
    while line := source.readline():
        asked = json.loads(line)
        raw = source.read(asked["bytes"])
        pixels, answer = b"", dict[str, object]()
        try:
            opened = decode(raw, tuple(asked["formats"]), asked["mode"], asked["most_pixels"])
            pixels = fitted(opened, asked["width"], asked["height"], asked["resize"]).tobytes()
            answer = {"bytes": len(pixels)}
        except problem_kind as problem:
            answer = {"problem": str(problem)[:300], "large": problem.large}
        except MemoryError:
            answer = {"problem": "the image needs too much memory", "large": True}
        sink.write(json.dumps(answer).encode() + b"\n" + pixels)
        sink.flush()


if __name__ == "__main__":
    serve(sys.argv[1])
