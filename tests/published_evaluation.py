"""Writes what the published evaluation of small images gives, for tests/cuda/published_evaluation.rs.

    published_evaluation.py OUT.safetensors          # needs torch, numpy, safetensors

Networks, images and results of two forms, as PS-MT's release evaluates: Cityscapes by a window whose logits are added up
(teacher 1), VOC at the next multiples of 8 (mean logits of both teachers). Computed in float64 from float32 weights and 8-bit
images. Weights bear the names of the authors' checkpoints.
"""

import json
import math
import sys

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

CONFIG = dict(num_classes=4, blocks=[1, 1, 1, 1], stem="deep", stem_width=2, planes=1, aspp=4, low_level=4,
              dilations=[6, 12, 18], bn_momentum=0.1, bn_eps=1e-5)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
generator = torch.Generator().manual_seed(11)


class Net:
    """DeepLabv3+ in evaluation mode. A weight is drawn when it is first read, so that one pass makes the network."""

    def __init__(self):
        self.weights = {}

    def read(self, name, shape, draw):
        if name not in self.weights:
            self.weights[name] = draw(torch.rand(shape, generator=generator, dtype=torch.float64)).float()
        assert self.weights[name].shape == torch.Size(shape), name
        return self.weights[name].double()

    def conv(self, name, x, out, kernel=1, stride=1, dilation=1):
        scale = 3.0 / math.sqrt(x.shape[1] * kernel * kernel)
        weight = self.read(f"{name}.weight", (out, x.shape[1], kernel, kernel), lambda r: (2 * r - 1) * scale)
        return F.conv2d(x, weight, None, stride, dilation * (kernel // 2), dilation)

    def norm(self, name, x):
        c = (x.shape[1],)
        weight = self.read(f"{name}.weight", c, lambda r: 1.6 * r - 0.4)
        bias = self.read(f"{name}.bias", c, lambda r: r - 0.1)
        mean = self.read(f"{name}.running_mean", c, lambda r: 0.6 * r - 0.3)
        var = self.read(f"{name}.running_var", c, lambda r: 0.5 * r + 0.3)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, CONFIG["bn_eps"])

    def bottleneck(self, name, x, planes, stride, dilation):
        y = F.relu(self.norm(f"{name}.bn1", self.conv(f"{name}.conv1", x, planes)))
        y = F.relu(self.norm(f"{name}.bn2", self.conv(f"{name}.conv2", y, planes, 3, stride, dilation)))
        y = self.norm(f"{name}.bn3", self.conv(f"{name}.conv3", y, 4 * planes))
        if stride != 1 or x.shape[1] != 4 * planes:
            x = self.norm(f"{name}.downsample.1", self.conv(f"{name}.downsample.0", x, 4 * planes, 1, stride))
        return F.relu(y + x)

    def logits(self, x):
        """Stride-4 logits of normalised images [n, 3, h, w]."""
        c, s = CONFIG, CONFIG["stem_width"]
        base, head, last = "encoder.backbone", "encoder.head", "decoder.upsample.last_conv"
        x = F.relu(self.norm(f"{base}.conv1.1", self.conv(f"{base}.conv1.0", x, s, 3, 2)))
        x = F.relu(self.norm(f"{base}.conv1.4", self.conv(f"{base}.conv1.3", x, s, 3)))
        x = F.relu(self.norm(f"{base}.bn1", self.conv(f"{base}.conv1.6", x, 2 * s, 3)))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, blocks in enumerate(c["blocks"]):
            for block in range(blocks):
                stride = 2 if block == 0 and stage in (1, 2) else 1
                dilation = 2 << block if stage == 3 else 1
                x = self.bottleneck(f"{base}.layer{stage + 1}.{block}", x, c["planes"] << stage, stride, dilation)
            low = x if stage == 0 else low
        aspp, leaky = f"{head}.aspp", lambda x: F.leaky_relu(x, 0.01)
        branches = [self.conv(f"{aspp}.map_convs.0", x, c["aspp"])]
        branches += [self.conv(f"{aspp}.map_convs.{i + 1}", x, c["aspp"], 3, 1, d) for i, d in enumerate(c["dilations"])]
        y = self.conv(f"{aspp}.red_conv", leaky(self.norm(f"{aspp}.map_bn", torch.cat(branches, 1))), c["aspp"])
        pool = self.conv(f"{aspp}.global_pooling_conv", x.mean((2, 3), keepdim=True), c["aspp"])
        y = y + self.conv(f"{aspp}.pool_red_conv", leaky(self.norm(f"{aspp}.global_pooling_bn", pool)), c["aspp"])
        y = up(leaky(self.norm(f"{aspp}.red_bn", y)), low.shape[2:])
        low = F.relu(self.norm(f"{head}.reduce.1", self.conv(f"{head}.reduce.0", low, c["low_level"])))
        y = torch.cat([y, low], 1)
        y = F.relu(self.norm(f"{last}.1", self.conv(f"{last}.0", y, c["aspp"], 3)))
        y = F.relu(self.norm(f"{last}.4", self.conv(f"{last}.3", y, c["aspp"], 3)))
        y = self.conv("decoder.upsample.classifier", y, c["num_classes"])
        return y + self.read("decoder.upsample.classifier.bias", (c["num_classes"],), lambda r: 0 * r).view(1, -1, 1, 1)


def up(x, size):
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)


def normalize(image):
    x = image.double().permute(2, 0, 1)[None] / 255
    return (x - torch.tensor(MEAN).double().view(1, 3, 1, 1)) / torch.tensor(STD).double().view(1, 3, 1, 1)


def sliding(net, image, window):
    """Sum of logits [c, h, w] and number of windows [h, w] a pixel: stride two thirds, the last window of an axis moved
    inward, a smaller image in the middle of zeros."""
    x, (h, w) = normalize(image), image.shape[:2]
    stride = int(np.ceil(window * 2 / 3))
    top, left = max(window - h, 0) // 2, max(window - w, 0) // 2
    bottom, right = max(window - h, 0) - top, max(window - w, 0) - left
    x = F.pad(x, (left, right, top, bottom))
    rows, columns = x.shape[2:]
    total, count = torch.zeros(CONFIG["num_classes"], rows, columns).double(), torch.zeros(rows, columns)
    for i in range(int(np.ceil((rows - window) / stride)) + 1):
        for j in range(int(np.ceil((columns - window) / stride)) + 1):
            y1, x1 = min(i * stride + window, rows), min(j * stride + window, columns)
            part = (slice(y1 - window, y1), slice(x1 - window, x1))
            total[(slice(None), *part)] += up(net.logits(x[(slice(None), slice(None), *part)]), (window, window))[0]
            count[part] += 1
    return total[:, top:top + h, left:left + w], count[top:top + h, left:left + w]


def stretched(nets, image, multiple):
    """Mean logits [c, h, w] of an image that the networks see at the next multiples."""
    h, w = image.shape[:2]
    size = (math.ceil(h / multiple) * multiple, math.ceil(w / multiple) * multiple)
    x = up(normalize(image), size)
    mean = sum(up(net.logits(x), size) for net in nets) / len(nets)
    return up(mean, (h, w))[0]


def draw_image(h, w):
    """Coloured blobs on a gradient, with noise: neighbouring windows see different things."""
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    image = torch.stack([120 + 90 * torch.sin(y / 5 + k) * torch.cos(x / (6 + k)) for k in range(3)], 2)
    return (image + 40 * torch.rand(h, w, 3, generator=generator)).clamp(0, 255).byte()


def centred(net, image):
    """Gives the classifier weights and a bias by which no class wins everywhere."""
    logits = net.logits(normalize(image))[0].flatten(1)
    scale = 1.5 / logits.std(1)
    net.weights["decoder.upsample.classifier.weight"] *= scale.float().view(-1, 1, 1, 1)
    net.weights["decoder.upsample.classifier.bias"] = (-scale * logits.mean(1)).float()
    return net


def main(out):
    nets = [centred(Net(), draw_image(48, 64)) for _ in range(2)]
    cases, tensors = [], {}
    for name, size, window in [("windows", (37, 45), 24), ("one_side", (19, 41), 32), ("both_sides", (17, 22), 32)]:
        image = draw_image(*size)
        total, count = sliding(nets[0], image, window)
        cases.append(dict(name=name, network="teacher1", window=window, multiple=0))
        tensors |= {f"{name}.image": image, f"{name}.scores": total, f"{name}.count": count.byte()}
    for name, size in [("multiples", (37, 53)), ("one_multiple", (24, 29))]:
        image = draw_image(*size)
        cases.append(dict(name=name, network="ensemble", window=0, multiple=8))
        tensors |= {f"{name}.image": image, f"{name}.scores": stretched(nets, image, 8)}
    for case in cases:
        scores = tensors[f"{case['name']}.scores"]
        label, top = scores.argmax(0), scores.topk(2, 0).values
        tensors[f"{case['name']}.label"] = label.byte()
        tensors[f"{case['name']}.scores"] = scores.float()
        shares = [round(float((label == c).double().mean()), 3) for c in range(CONFIG["num_classes"])]
        print(case["name"], "shares", shares, "least margin", float((top[0] - top[1]).min()))
    for i, net in enumerate(nets):
        tensors |= {f"teacher{i + 1}.{name}": value for name, value in net.weights.items()}
    meta = dict(model=CONFIG, mean=MEAN, std=STD, cases=cases)
    save_file({k: v.contiguous() for k, v in tensors.items()}, out, metadata={"attrs": json.dumps(meta)})


if __name__ == "__main__":
    main(sys.argv[1])
