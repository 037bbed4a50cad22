#!/usr/bin/env python
"""The network of this project in PyTorch, to compare with: same layers, channels last.

    torch_amoebanet.py {forward,train} --hparams=JSON

A worker of benchmark_inference.py, or of benchmark_train.py with --beside, for a Python that has
PyTorch; of the project it needs `model_specs` only. It has AmoebaNet-D's operations only.
"""

import json
import os
import sys
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

import model_specs
from scripts.benchmarks import turns


class _Shape(NamedTuple):
    """Of a layer's output: channels, and how often the image was halved."""

    channels: int
    halvings: int


def _conv_bn(inputs, outputs, kernel=(1, 1), stride=(1, 1), epsilon=1e-5, decay=0.9, padding=None):
    padding = [n // 2 for n in kernel] if padding is None else padding
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        nn.BatchNorm2d(outputs, eps=epsilon, momentum=1 - decay),
    )


class _FactorizedReduction(nn.Module):
    """Half of the channels from the even pixels, half from the odd ones."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-5, momentum=0.1)

    def forward(self, net):
        odd = functional.pad(net[:, :, 1:, 1:], (0, 1, 0, 1))
        return self.norm(torch.cat([self.even(net), self.odd(odd)], 1))


def _operation(name, inputs, filters, stride):
    """The module of one of the cells' operations."""
    s = (stride, stride)
    if name in ("1x1", "none"):
        if name == "none" and stride == 1 and inputs == filters:
            return nn.Identity()
        return nn.Sequential(nn.ReLU(), _conv_bn(inputs, filters, stride=s))
    kind, _, size = name.partition("_pool_")
    if size:
        size = int(size[0])
        if kind == "avg":
            pool = nn.AvgPool2d(size, stride, size // 2, count_include_pad=False)
        else:
            pool = nn.MaxPool2d(size, stride, (size - 1) // 2, ceil_mode=size % 2 == 0)
        return pool if inputs == filters else nn.Sequential(pool, _conv_bn(inputs, filters))
    reduced = filters // 4
    if name == "1x7_7x1":
        inner = [_conv_bn(reduced, reduced, (1, 7), (1, stride)), nn.ReLU()]
        inner += [_conv_bn(reduced, reduced, (7, 1), (stride, 1))]
    elif name == "3x3":
        inner = [_conv_bn(reduced, reduced, (3, 3), s)]
    else:
        raise ValueError(f"{name} is none of AmoebaNet-D's operations.")
    before = [nn.ReLU(), _conv_bn(inputs, reduced), nn.ReLU()]
    return nn.Sequential(*before, *inner, nn.ReLU(), _conv_bn(reduced, filters))


class _Cell(nn.Module):
    """See network_utils.BaseCell; without drop path, which is off by default."""

    def __init__(self, spec, net: _Shape, previous: _Shape, filters: int, stride: int):
        super().__init__()
        operations, self.indices, used = spec
        if previous is None:  # The cell's input as it came in.
            previous, self.before = net, nn.Identity()
        elif previous.halvings != net.halvings:
            self.before = nn.Sequential(nn.ReLU(), _FactorizedReduction(previous.channels, filters))
            previous = _Shape(filters, net.halvings)
        elif previous.channels != filters:
            self.before = nn.Sequential(nn.ReLU(), _conv_bn(previous.channels, filters))
            previous = _Shape(filters, net.halvings)
        else:
            self.before = nn.Identity()
        self.first = nn.Sequential(nn.ReLU(), _conv_bn(net.channels, filters))
        self.operations = nn.ModuleList(
            _operation(
                name,
                previous.channels if index == 1 else filters,
                filters,
                stride if index < 2 else 1,
            )
            for name, index in zip(operations, self.indices)
        )
        self.outputs = [i for i, unused in enumerate(used) if not unused]
        self.shape = _Shape(filters * len(self.outputs), net.halvings + stride - 1)
        # A state of the input's size, or with other channels, is brought to that of the last one.
        channels = {0: filters, 1: previous.channels}
        self.fit = nn.ModuleDict()
        for i in self.outputs:
            if i < 2 and stride == 2:
                self.fit[str(i)] = _FactorizedReduction(channels[i], filters)
            elif channels.get(i, filters) != filters:
                self.fit[str(i)] = _conv_bn(channels[i], filters)

    def forward(self, net, previous):
        states = [self.first(net), self.before(previous)]
        for i in range(0, len(self.operations), 2):
            left, right = (self.operations[k](states[self.indices[k]]) for k in (i, i + 1))
            states.append(left + right)
        return torch.cat(
            [
                self.fit[str(i)](states[i]) if str(i) in self.fit else states[i]
                for i in self.outputs
            ],
            1,
        )


class AmoebaNet(nn.Module):
    """The network: images [batch, 3, size, size] to logits, and the auxiliary ones in training.

    Args:
        hparams: the values of this project's hyper-parameters by name.
        has_aux_head: whether there is an auxiliary head.
    """

    def __init__(self, hparams: dict, has_aux_head: bool):
        super().__init__()
        stem = hparams["stem_reduction_size"]
        self.stem = _conv_bn(3, stem, (3, 3), (2, 2), padding=0)
        net, previous = _Shape(stem, 1), None
        cells, reductions = [], hparams["num_reduction_layers"]
        layers = [k * hparams["num_cells"] // (reductions + 1) for k in range(1, reductions + 1)]
        normal = model_specs.get_normal_cell(hparams["cell_name"])
        reduction = model_specs.get_reduction_cell(hparams["cell_name"])

        def add(spec, scaling, stride):
            nonlocal net, previous
            cells.append(
                _Cell(spec, net, previous, int(hparams["reduction_size"] * scaling), stride)
            )
            net, previous = cells[-1].shape, net

        for i in range(hparams["num_stem_cells"]):
            add(reduction, 0.5 ** (hparams["num_stem_cells"] - i), 2)
        scaling = 1.0
        self.aux = self.aux_position = None
        for i in range(hparams["num_cells"]):
            if i in layers:
                scaling *= 2
                add(reduction, scaling, 2)
            add(normal, scaling, 1)
            if has_aux_head and i == layers[1] - 1:
                self.aux_position = len(cells) - 1
                self.aux = _aux_head(net, hparams)
        self.cells = nn.ModuleList(cells)
        self.dropout = nn.Dropout(1 - hparams["dense_dropout_keep_prob"])
        self.classifier = nn.Linear(net.channels, hparams["num_label_classes"])

    def forward(self, images):
        net, previous = self.stem(images), None
        aux_logits = None
        for i, cell in enumerate(self.cells):
            net, previous = cell(net, net if previous is None else previous), net
            if self.training and i == self.aux_position:
                aux_logits = self.aux(net)
        net = functional.relu(net).mean([2, 3])
        return self.classifier(self.dropout(net)), aux_logits


def _aux_head(net: _Shape, hparams):
    width = (hparams["image_size"] - 3) // 2 + 1
    for _ in range(net.halvings - 1):
        width = (width + 1) // 2
    width = (width - 5) // 3 + 1
    channels = [int(n * hparams["aux_scaling"]) for n in (128, 768)]
    return nn.Sequential(
        *[nn.ReLU(), nn.AvgPool2d(5, 3), _conv_bn(net.channels, channels[0]), nn.ReLU()],
        *[_conv_bn(*channels, (width, width), padding=0), nn.ReLU(), nn.Flatten()],
        nn.Linear(channels[1], hparams["num_label_classes"]),
    )


def forward_step(hparams: dict, batch_size: int):
    """A function that classifies a batch of noise, and the number of the network's weights."""
    model, images, _ = _model_and_batch(hparams, batch_size, has_aux_head=False)
    model.eval()

    def step():
        with torch.inference_mode():
            return functional.softmax(model(images)[0], dim=1)

    return step, _count(model)


def training_step(hparams: dict, batch_size: int):
    """A function that trains on a batch of noise as this project does, and the number of weights.

    SGD with momentum, weight decay of weights but not of biases and batch normalisation, label
    smoothing, the auxiliary loss, and moving averages of the weights.
    """
    model, images, labels = _model_and_batch(hparams, batch_size, hparams["use_aux_head"])
    model.train()
    parameters = list(model.parameters())
    decayed = [p for p in parameters if p.ndim > 1]
    others = [p for p in parameters if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": hparams["weight_decay"]}, {"params": others}],
        lr=1e-3,
        momentum=hparams["momentum_rate"],
    )
    averages = [p.detach().clone() for p in parameters]
    loss_of = nn.CrossEntropyLoss(label_smoothing=hparams["label_smoothing"])

    def step():
        logits, aux_logits = model(images)
        loss = loss_of(logits, labels)
        if aux_logits is not None:
            loss = loss + 0.4 * loss_of(aux_logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - hparams["moving_average_decay"])
        return loss

    return step, _count(model)


def _model_and_batch(hparams, batch_size, has_aux_head):
    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    model = AmoebaNet(hparams, has_aux_head).to(memory_format=torch.channels_last)
    images = torch.rand(batch_size, 3, hparams["image_size"], hparams["image_size"]) * 2 - 1
    images = images.contiguous(memory_format=torch.channels_last)
    return model, images, torch.ones(batch_size, dtype=torch.long)


def _count(model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def main():
    part, hparams = sys.argv[1], json.loads(sys.argv[2].partition("--hparams=")[2])
    step_of = {"forward": forward_step, "train": training_step}[part]
    step, weights = step_of(hparams, hparams["train_batch_size"])
    version = f"PyTorch {torch.__version__}"
    turns.serve(step, weights=weights, version=version, multiply_adds=None)


if __name__ == "__main__":
    main()
