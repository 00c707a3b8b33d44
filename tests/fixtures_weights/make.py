"""Writes the small PyTorch files beside this script, which tests/files/weights.rs reads. Needs torch.

    make.py

`mixed.pth` is torch.save's zip archive, `mixed_protocol5.pt` the same by pickle protocol 5, `mixed_legacy.pth` the container
before PyTorch 1.6. Values are whole or half numbers, which every type holds.
"""

import argparse
import collections
from pathlib import Path

import torch

HERE = Path(__file__).parent


def contents():
    grid = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    shared = torch.arange(12, dtype=torch.float32)
    state = collections.OrderedDict(
        [
            ("module.f32", grid + 0.5),
            ("module.f16", grid.half()),
            ("module.bf16", -grid.bfloat16()),
            ("module.f64", grid.double() * 2),
            ("module.transposed", grid.t()),
            ("module.sliced", shared[2:10:3]),
            ("module.tail", shared[6:].reshape(3, 2)),
            ("module.parameter", torch.nn.Parameter(grid[0])),
            ("module.number", torch.tensor(7.0)),
            ("module.empty", torch.zeros(0, 3)),
            ("module.num_batches_tracked", torch.tensor(3)),
        ]
    )
    state._metadata = collections.OrderedDict([("", {"version": 1})])
    return {
        "epoch": 12,
        "args": argparse.Namespace(lr=0.1, names=["a", "b"]),
        "state_dict": state,
        "monitor_best": 0.5,
        "history": [1, 2.5, None, True, ("x", 2**70)],
    }


def main():
    torch.save(contents(), HERE / "mixed.pth")
    torch.save(contents(), HERE / "mixed_protocol5.pt", pickle_protocol=5)
    torch.save(contents(), HERE / "mixed_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
