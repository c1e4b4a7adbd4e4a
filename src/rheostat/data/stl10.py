"""STL-10 (Coates et al. 2011), the binary version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rheostat.data.base import DataError, Dataset, Remote, Source, expect_size, find_file, read_regular, register

LARGEST = 2**29
"""Size limit of a file, in bytes; the largest published one has 221 million."""
STL10 = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")


def read(folder: Path) -> tuple[Dataset, Dataset]:
    """(train 5 000, test 8 000) labelled images of 96×96, stored column-major."""
    inside = folder / "stl10_binary" if (folder / "stl10_binary").is_dir() else folder
    halves = []
    for half in ("train", "test"):
        path, marks_path = find_file(inside, f"{half}_X.bin"), find_file(inside, f"{half}_y.bin")
        raw = np.frombuffer(bytearray(read_regular(path, LARGEST)), np.uint8)
        marks = np.frombuffer(read_regular(marks_path, LARGEST), np.uint8)
        if not marks.size or marks.min() < 1 or marks.max() > 10:
            raise DataError(f"{marks_path}: labels must be from 1 to 10")
        expect_size(path, raw.size, marks.size * 3 * 96 * 96)
        columns = torch.from_numpy(raw).reshape(-1, 3, 96, 96)
        halves.append(
            Dataset("stl10", columns.transpose(2, 3).contiguous(), torch.from_numpy(marks.astype(np.int64) - 1), STL10)
        )
    return halves[0], halves[1]


register(
    "stl10",
    Source(
        read,
        image=(3, 96, 96),
        remotes=(
            Remote(
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb", "tar"
            ),
        ),
    ),
)
