"""Checks ONNX models that `psmt-fast export` wrote, with the onnx and onnxruntime packages.

    onnx_check.py predicted MODEL DIR IMAGE...   what `psmt-fast predict --out DIR --eval-size 0 IMAGE...` wrote, from the
                                                 same network; images of one size in batches of 3
    onnx_check.py reference MODEL FILE           tensors `images` and the model's outputs in a safetensors file

Both check the model with onnx.checker and strict shape inference, run it, and print one JSON object: `labels_equal`, the
share of pixels with equal labels, and `max_difference`, the largest difference of any other output. Confidences that
`predict` wrote as bytes may differ by half a byte more, which is taken off.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

DTYPES = {"F32": np.float32}


def read_tensors(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, values = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    return {
        name: np.frombuffer(values[slice(*t["data_offsets"])], DTYPES[t["dtype"]]).reshape(t["shape"])
        for name, t in header.items()
    }


class Model:
    def __init__(self, path):
        onnx.checker.check_model(str(path), full_check=True)
        inferred = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True, data_prop=True)
        assert inferred.graph.node, "an empty graph"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self.input,) = self.session.get_inputs()

    def __call__(self, images):
        element = np.uint8 if self.input.type == "tensor(uint8)" else np.float32
        names = [o.name for o in self.session.get_outputs()]
        return dict(zip(names, self.session.run(names, {self.input.name: images.astype(element)})))


class Differences:
    def __init__(self):
        self.equal, self.pixels, self.largest = 0, 0, 0.0

    def labels(self, got, want):
        assert got.shape == want.shape, (got.shape, want.shape)
        self.equal += int((got == want).sum())
        self.pixels += got.size

    def values(self, got, want, rounding=0.0):
        assert got.shape == want.shape, (got.shape, want.shape)
        worst = np.abs(got.astype(np.float64) - want).max() - rounding
        # A NaN is a difference.
        self.largest = max(self.largest, worst if np.isfinite(worst) else np.inf)

    def print(self):
        share = self.equal / self.pixels if self.pixels else 1.0
        print(json.dumps({"labels_equal": share, "max_difference": float(self.largest)}))


def predicted(model, folder, paths):
    from PIL import Image

    by_size, found = {}, Differences()
    for path in map(Path, paths):
        image = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)
        by_size.setdefault(image.shape, []).append((path.stem, image))
    for group in by_size.values():
        for at in range(0, len(group), 3):
            part = group[at : at + 3]
            out = model(np.stack([image for _, image in part]))
            for i, (stem, _) in enumerate(part):
                want = {k: np.asarray(Image.open(Path(folder) / f"{stem}_{k}.png")) for k in ("index", "confidence")}
                found.labels(out["labels"][i], want["index"])
                found.values(out["confidence"][i], want["confidence"] / 255.0, rounding=0.5 / 255.0)
    found.print()


def reference(model, path):
    tensors, found = read_tensors(path), Differences()
    for name, got in model(tensors["images"]).items():
        if name == "labels":
            found.labels(got, tensors[name])
        else:
            found.values(got, tensors[name])
    found.print()


if __name__ == "__main__":
    mode, path, *rest = sys.argv[1:]
    {"predicted": predicted, "reference": reference}[mode](Model(path), rest[0], *([rest[1:]] if rest[1:] else []))
