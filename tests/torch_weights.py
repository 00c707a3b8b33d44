"""Writes files by torch.save and what is in them, for tests/files/torch_weights.rs.

    torch_weights.py DIR

For every file NAME of `DIR/index.json`, tensors are listed by name, shape and place in `DIR/NAME.f32`, which holds their
values as little-endian float32, last axis fastest.
"""

import argparse
import collections
import json
import sys
from pathlib import Path

import torch


def zoo():
    torch.manual_seed(1)
    base = torch.randn(4, 6, 5)
    linear = torch.nn.Linear(7, 3)
    state = collections.OrderedDict(
        double=base.double() / 3,
        float=base,
        half=base.half(),
        bfloat16=base.bfloat16(),
        permuted=base.permute(2, 0, 1),
        transposed=base[0].t(),
        strided=base[1:, ::2, 1::3],
        channels_last=torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        scalar=base.sum(),
        parameter=torch.nn.Parameter(base[2]),
        one=base[:1, :1, :1],
    )
    state.update(linear.state_dict())
    # Two views of one storage, and the same tensor twice.
    state["head"], state["tail"] = base.view(-1)[:10], base.view(-1)[10:]
    state["twice"] = state["float"]
    state["num_batches_tracked"] = torch.tensor(5)
    return state


def nested(state):
    return {
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), dtype=torch.float16),
        "state_dict": collections.OrderedDict(("module." + name, value) for name, value in state.items()),
        "history": collections.defaultdict(list, loss=[0.5, 0.25]),
        "ids": {1, 2},
    }


def normed():
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}


def floats(value, name="", seen=None):
    """All tensors of floats by the keys around them; a container that comes twice counts in its first place."""
    seen = set() if seen is None else seen
    if isinstance(value, torch.Tensor):
        return [(name, value)] if value.is_floating_point() else []
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    else:
        return []
    if id(value) in seen:
        return []
    seen.add(id(value))
    return [pair for key, inner in items for pair in floats(inner, f"{name}.{key}" if name else str(key), seen)]


def main():
    out = Path(sys.argv[1])
    index = {}

    def save(name, value, **options):
        torch.save(value, out / name, **options)
        tensors, at = [], 0
        with open(out / f"{name}.f32", "wb") as file:
            for tensor_name, tensor in floats(value):
                # Reads the values one by one, whatever their strides.
                data = tensor.detach().float().contiguous().numpy().astype("<f4").tobytes()
                file.write(data)
                tensors.append({"name": tensor_name, "shape": list(tensor.shape), "at": at})
                at += tensor.numel()
        index[name] = tensors

    for kind, options in {
        "zip": {},
        "legacy": {"_use_new_zipfile_serialization": False},
        "protocol4": {"pickle_protocol": 4},
        "protocol5": {"pickle_protocol": 5},
        "legacy_protocol4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
    }.items():
        save(f"zoo_{kind}.pth", zoo(), **options)
        save(f"nested_{kind}.pth", nested(zoo()), **options)
        save(f"normed_{kind}.pt", normed(), **options)
    try:
        import torchvision
    except ImportError:
        print("no torchvision", file=sys.stderr)
    else:
        resnet = torchvision.models.resnet50(weights=None)
        save("resnet50.pth", resnet.state_dict())
        save("resnet50_legacy.pth", resnet.state_dict(), _use_new_zipfile_serialization=False)
    (out / "index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
