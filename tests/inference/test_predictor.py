import numpy as np
import pytest
import torch
from scipy.special import softmax

from medvision.errors import ConfigError, DataError
from medvision.inference.decision import Decision
from medvision.inference.predictor import Predictor, choose_device
from medvision.tasks import Task

TASK = Task.classes("abc")
DECODE = {"size": (12, 16), "channels": 1, "resize": "letterbox"}


@pytest.fixture
def predictor(network):
    return Predictor(network, TASK, decode=DECODE, decision=Decision(temperature=2.0))


def test_logits_are_those_of_the_network_in_evaluation_mode(make_network, predictor, images):
    network = make_network().eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()

    found = predictor.predict_logits(images)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_probabilities_are_calibrated_and_in_double_precision(predictor, images):
    found = predictor.predict_probs(images)

    assert found.dtype == np.float64
    np.testing.assert_allclose(found, softmax(predictor.predict_logits(images).astype(np.float64) / 2, axis=1))


def test_embeddings_are_what_the_head_sees(network, predictor, images):
    probs, embeddings = predictor.probs_and_embeddings(images)

    np.testing.assert_array_equal(probs, predictor.predict_probs(images))
    with torch.no_grad():
        expected = network.embed(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


@pytest.mark.parametrize("batch_size", [None, 16, 20, 64, 69, 70, 1000])
def test_the_same_images_give_the_same_bits_however_many_are_passed(predictor, images, batch_size):
    whole = predictor.predict_logits(images)

    np.testing.assert_array_equal(predictor.predict_logits(images, batch_size), whole)
    np.testing.assert_array_equal(predictor.predict_logits(images[:37], batch_size), whole[:37])
    np.testing.assert_array_equal(predictor.predict_logits(images[::-1], batch_size), whole[::-1])


@pytest.mark.parametrize("n", [1, 5, 15])
def test_a_few_images_give_the_same_to_rounding(predictor, images, n):
    np.testing.assert_allclose(predictor.predict_logits(images[:n]), predictor.predict_logits(images)[:n], atol=1e-5)
    np.testing.assert_allclose(predictor.predict_logits(images, 3), predictor.predict_logits(images), atol=1e-5)


def test_no_images_give_no_rows(predictor):
    assert predictor.predict_probs(np.zeros((0, 1, 12, 16), np.uint8)).shape == (0, 3)


def test_memory_mapped_read_only_images_are_read_in_place(predictor, images, tmp_path):
    np.save(tmp_path / "images.npy", images)

    found = predictor.predict_logits(np.load(tmp_path / "images.npy", mmap_mode="r"), batch_size=32)

    np.testing.assert_array_equal(found, predictor.predict_logits(images))


def test_batches_are_no_larger_than_asked_and_fit_the_memory_of_large_images(predictor, images):
    seen = []
    predictor.network.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))

    predictor.predict_logits(images, batch_size=32)
    predictor.predict_logits(np.zeros((150, 1, 12, 16), np.uint8))

    assert seen == [32, 32, 16, 64, 64, 22]


def test_prediction_keeps_no_gradients_and_draws_nothing_at_random(predictor, images):
    state = torch.get_rng_state()

    predictor.predict_logits(images)

    assert torch.equal(torch.get_rng_state(), state)
    assert not any(parameter.requires_grad for parameter in predictor.network.parameters())


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 1, 12, 16), np.float32),
        np.zeros((2, 3, 12, 16), np.uint8),
        np.zeros((2, 12, 16, 1), np.uint8),
        np.zeros((2, 1, 16, 12), np.uint8),
        np.zeros((1, 12, 16), np.uint8),
    ],
)
def test_images_of_another_kind_are_refused(predictor, wrong):
    with pytest.raises(DataError, match=r"expected images as uint8 \(N, 1, 12, 16\); found") as error:
        predictor.predict_logits(wrong)

    assert f"{wrong.dtype} {wrong.shape}" in str(error.value)


def test_devices_are_chosen_by_name():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == (
        torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    )


@pytest.mark.parametrize("name", ["gpu", "cuda", "cuda:99", "toaster"])
def test_a_device_that_is_not_there_is_refused(name):
    if name in ("gpu", "cuda") and torch.cuda.is_available():
        pytest.skip("this machine has one")

    with pytest.raises(ConfigError, match=f"device '{name}' is not available here. Use 'cpu'"):
        choose_device(name)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_predicts_as_the_cpu_does(make_network, predictor, images):
    on_gpu = Predictor(make_network(), TASK, decode=DECODE, device="gpu")

    np.testing.assert_allclose(on_gpu.predict_logits(images), predictor.predict_logits(images), atol=1e-3)
