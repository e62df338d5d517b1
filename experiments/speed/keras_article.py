"""The article's script: a small CNN on MNIST in Keras, trained epoch by epoch until a test accuracy is reached.

It runs in an environment of its own (`make bench-keras`) that has TensorFlow and nothing of medvision, and prints one
line of JSON: seconds of training, epochs, test accuracy, versions. The clock counts `fit` and stops while the test
images are looked at.

    .venv-keras/bin/python experiments/speed/keras_article.py FOLDER_OF_IDX_FILES
"""

import argparse
import importlib.metadata
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

import keras
import numpy as np
from keras import layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the four idx files of MNIST")
    parser.add_argument("--accuracy", type=float, default=0.99, help="test accuracy at which to stop")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=60_000, help="training images; fewer to try the script")
    given = parser.parse_args()
    keras.utils.set_random_seed(given.seed)
    train = pixels(given.folder / "train-images-idx3-ubyte")[: given.images]
    train_labels = labels(given.folder / "train-labels-idx1-ubyte")[: given.images]
    test, test_labels = pixels(given.folder / "t10k-images-idx3-ubyte"), labels(given.folder / "t10k-labels-idx1-ubyte")
    model = article()
    seconds, accuracy, epoch = 0.0, 0.0, 0
    while epoch < given.epochs and accuracy < given.accuracy:
        begin = time.perf_counter()
        model.fit(train, train_labels, batch_size=32, epochs=1, verbose=0)
        seconds += time.perf_counter() - begin
        accuracy = model.evaluate(test, test_labels, batch_size=512, verbose=0)[1]
        epoch += 1
    versions = {name: importlib.metadata.version(name) for name in ("tensorflow-cpu", "keras")}
    print(json.dumps({"seconds": seconds, "epochs": epoch, "accuracy": float(accuracy), "versions": versions}))


def article() -> keras.Model:
    """Two convolutions with pooling, a dense layer, ten classes."""
    model = keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(64, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def pixels(file: Path) -> np.ndarray:
    """(N, 28, 28, 1) float32 in [0, 1] of an idx file of images."""
    return np.fromfile(file, np.uint8, offset=16).reshape(-1, 28, 28, 1).astype(np.float32) / 255


def labels(file: Path) -> np.ndarray:
    """(N,) int64 of an idx file of labels."""
    return np.fromfile(file, np.uint8, offset=8).astype(np.int64)


if __name__ == "__main__":
    main()
