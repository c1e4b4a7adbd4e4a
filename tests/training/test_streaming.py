"""Images that are read as a run goes: killed runs continue to the same bits, and memory does not grow with the set."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from rheostat.runtime.files import read_tensors

SCRIPT = '''
import resource
import sys

import torch
from torch.utils import data as torch_data

import rheostat
from rheostat import nets
from rheostat.methods import compose
from rheostat.models.tunable import Tunable


class Drawn(torch_data.Dataset):
    """Images that are made when they are asked for, and drawn at random each time."""

    def __init__(self, count, size):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.full((3, self.size, self.size), 20 * (index % 10), dtype=torch.uint8)
        return image + torch.randint(0, 20, image.shape, dtype=torch.uint8), index % 10


class Flowing(torch_data.IterableDataset):
    def __init__(self, held):
        self.held = held

    def __iter__(self):
        for index in torch.randperm(len(self.held)).tolist():
            yield self.held[index]


def main(out, form, count, size, batch, epochs, workers, seconds):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    image = (3, size, size)
    small = nets.small_cnn(base_width=2, image=image, padded=True)
    # Without dropout, whose draws are each rank's own.
    model = Tunable(small if size == 64 else nets.resnet(depth=8, base_width=2, image=image), compose("pgd-at"))
    held = Drawn(count, size)
    more = {"steps_per_epoch": count // batch} if form == "flowing" else {}
    rheostat.fit(
        model, Flowing(held) if form == "flowing" else held, Drawn(20, size), out=out, eps=0.5, norm="l2",
        epochs=epochs, batch=batch, workers=workers, attack={"steps": 1}, lr=0.01, select={"images": 20, "steps": 1},
        checkpoint_seconds=seconds, device={"precision": "fp32"}, **more,
    )
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    out, form, *numbers = sys.argv[1:]
    main(out, form, *map(int, numbers))
'''


def command(folder: Path, out: Path, *words: object) -> list[str]:
    script = folder / "stream.py"
    script.write_text(SCRIPT)
    return [sys.executable, str(script), str(out), *map(str, words)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return read_tensors(out / "model.safetensors")[0]


@pytest.mark.slow
@pytest.mark.parametrize(("form", "workers"), [("map-style", 2), ("flowing", 0), ("flowing", 1)])
def test_sigkill_while_streaming_ends_with_equal_weights(form: str, workers: int, tmp_path: Path) -> None:
    words = (form, 480, 16, 24, 3, workers, 0)
    started = time.monotonic()
    subprocess.run(command(tmp_path, tmp_path / "whole", *words), check=True, capture_output=True)
    whole = time.monotonic() - started
    chance, kills = random.Random(0), 0
    for _ in range(20):
        with subprocess.Popen(
            command(tmp_path, tmp_path / "killed", *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            if kills == 3:
                assert process.wait() == 0
                break
            path = tmp_path / "killed" / "checkpoint.safetensors"
            before = path.stat().st_mtime_ns if path.exists() else 0
            while process.poll() is None and not (path.exists() and path.stat().st_mtime_ns != before):
                time.sleep(0.005)
            time.sleep(chance.uniform(0, whole / 40))
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
    assert kills == 3
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["map-style", "flowing"])
def test_a_set_ten_times_as_large_takes_no_more_memory(form: str, tmp_path: Path) -> None:
    """The small set is 25 MB of pixels, the large one 246 MB."""
    peaks = []
    for count in (2000, 20000):
        out = tmp_path / str(count)
        done = subprocess.run(
            command(tmp_path, out, form, count, 64, 250, 1, 0, 600), check=True, capture_output=True, text=True
        )
        peaks.append(int(done.stdout.split()[-1]) / 1024)
    assert peaks[1] - peaks[0] < 100


@pytest.mark.slow
def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    """The attack is an L2 one, whose steps are continuous, so that rounding is all that differs."""
    words = ("map-style", 120, 16, 24, 1, 0, 600)
    subprocess.run(command(tmp_path, tmp_path / "one", *words), check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [sys.executable, "-m", "torch.distributed.run", "--master-port", port, "--nproc-per-node", "2"]
    two = command(tmp_path, tmp_path / "two", *words)[1:]
    subprocess.run([*launch, *two], check=True, capture_output=True, timeout=300)
    one, other = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert max(float((one[k] - other[k]).abs().max()) for k in one) < 1e-4
