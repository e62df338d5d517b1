import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from medvision.errors import ConfigError
from medvision.inference.decision import Decision
from medvision.inference.evidence import Evidence
from medvision.inference.export import OnnxFile
from medvision.inference.onnx import OnnxPredictor
from medvision.inference.predictor import Predictor
from medvision.inference.quantize import measure, quantise
from medvision.models.small_resnet import small_resnet
from medvision.tasks import Task

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime.quantization")

SIZE = 16
TASK = Task.classes(("left", "right"))
DECODE = {"size": [SIZE, SIZE], "channels": 1, "resize": "stretch"}
FACTS = {"task": TASK.to_json(), "decode": DECODE, **Decision().to_json()}


@pytest.fixture(scope="module")
def data():
    """Images that are brighter on one side, and which."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (240, 1, SIZE, SIZE), dtype=np.uint8)
    targets = rng.integers(0, 2, 240)
    for image, target in zip(images, targets, strict=True):
        image[0, :, SIZE // 2 * target :][:, : SIZE // 2] += 50
    return images, targets


@pytest.fixture(scope="module")
def predictor(data):
    """A residual network that has learnt to tell them."""
    images, targets = (torch.from_numpy(one) for one in data)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = small_resnet(2, 1, (SIZE, SIZE), widths=[8, 16], depths=[1, 1])
        network.set_statistics([125.0], [60.0])
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
        for _ in range(30):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(images[:120]), targets[:120]).backward()
            optimizer.step()
    return Predictor(network, TASK, decode=DECODE)


@pytest.fixture(scope="module")
def evidence(data):
    images, targets = data
    return Evidence("made", images[:64], images[:120], images[120:], targets[120:])


@pytest.fixture(scope="module")
def graph(predictor):
    return OnnxFile(predictor).graph


@pytest.fixture(scope="module")
def quantised(graph, evidence):
    return quantise(graph, evidence)


def opened(content, predictor):
    return OnnxPredictor(OnnxFile(predictor, content).content(FACTS))


def test_static_computes_convolutions_in_integers_and_the_logits_as_they_were(quantised):
    nodes = onnx.load_from_string(quantised).graph.node
    makers = {output: node for node in nodes for output in node.output}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    (head,) = [node for node in nodes if node.op_type == "Gemm"]

    # Stem, two blocks of two and one shortcut.
    assert len(convolutions) == 6
    assert all(makers[name].op_type == "DequantizeLinear" for node in convolutions for name in node.input[:2])
    assert head.input[1] not in makers  # its weights are numbers of the file, not dequantised ones
    assert not any(
        makers[name].op_type == "DequantizeLinear" for node in nodes if node.op_type == "Softmax" for name in node.input
    )


def test_eight_bits_are_smaller_and_nearly_as_good(graph, quantised, predictor, data):
    images, targets = data
    exact = predictor.predict_probs(images)
    assert (exact.argmax(axis=1) == targets).mean() > 0.95  # the network has learnt something to lose

    assert len(quantised) < len(graph)
    found = opened(quantised, predictor).predict_probs(images)
    assert (found.argmax(axis=1) == exact.argmax(axis=1)).mean() > 0.97
    assert 0 < np.abs(found - exact).max() < 0.2


def test_what_it_costs_is_counted_on_the_held_out_images(quantised, predictor, evidence):
    model = opened(quantised, predictor)
    before, after = (one.predict_probs(evidence.held_out) for one in (predictor, model))
    flipped = dataclasses.replace(evidence, targets=1 - evidence.targets)

    cost, worst = measure(predictor, model, evidence), measure(predictor, model, flipped)

    same = int((before.argmax(axis=1) == after.argmax(axis=1)).sum())
    interval = binomtest(same, 120).proportion_ci(method="wilson")
    assert (cost.agreement.value, cost.agreement.n) == (same / 120, 120)
    assert (cost.agreement.low, cost.agreement.high) == pytest.approx((interval.low, interval.high))
    assert cost.max_difference == np.abs(before - after).max()
    assert cost.accuracy.value == (after.argmax(axis=1) == evidence.targets).mean()
    assert cost.accuracy_before.value == (before.argmax(axis=1) == evidence.targets).mean()
    assert worst.accuracy.value == pytest.approx(1 - cost.accuracy.value)


def test_accuracy_is_unknown_without_targets(predictor, evidence):
    cost = measure(predictor, predictor, dataclasses.replace(evidence, targets=None))

    assert (cost.accuracy, cost.accuracy_before) == (None, None)
    assert (cost.agreement.value, cost.max_difference) == (1, 0)


def test_noise_is_no_measure(graph):
    with pytest.raises(ConfigError, match=r"(?s)quantize=static is measured on real images.*images=DIR"):
        quantise(graph, Evidence.at_random({"size": (SIZE, SIZE), "channels": 1}))
