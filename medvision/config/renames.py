"""What versions before 0.2 called things in files that are still read: configs of runs, and bundles."""

from collections.abc import Mapping
from typing import Any

# Functions and classes that a `_target_` may name, and where they are now.
TARGETS: Mapping[str, str] = {
    **{
        f"medvision.data.sources.{name}": f"medvision.data.layouts.arrays.{name}"
        for name in ("digits", "mnist", "fashion_mnist", "cifar10", "cifar100")
    },
    "medvision.data.sources.image_folder": "medvision.data.layouts.folders.image_folder",
    "medvision.data.manifest.manifest": "medvision.data.layouts.tables.manifest",
    "medvision.data.medmnist.medmnist": "medvision.data.layouts.medmnist.medmnist",
    "medvision.models.resnet.small_resnet": "medvision.models.small_resnet.small_resnet",
    "medvision.models.torchvision_models.torchvision_model": "medvision.models.pretrained.pretrained",
    "medvision.models.timm_model.timm_model": "medvision.models.pretrained.pretrained",
    "medvision.training.losses.ClassificationLoss": "medvision.training.losses.task_loss",
    "medvision.training.loggers.wandb": "medvision.training.trackers.wandb",
    "medvision.training.loggers.mlflow": "medvision.training.trackers.mlflow",
    "lightning.pytorch.loggers.TensorBoardLogger": "medvision.training.trackers.tensorboard",
}
# Those that are gone, and what to do about it.
REMOVED: Mapping[str, str] = {
    f"medvision.models.classical.{name}": "was replaced in version 0.2 by medvision.models.classical.classical: "
    "train the model again."
    for name in (*("svm", "linear_svm", "decision_tree", "random_forest", "gradient_boosting", "knn", "majority"),)
}
# Keys of the command line.
KEYS: Mapping[str, str] = {
    "probes": "negative_controls",
    **{f"model.{name}": f"model.estimator.{name}" for name in ("C", "gamma", "max_depth", "n_estimators")},
}
# Keys of `data` that named the place of the images; all are `data.root` now.
PLACES = ("csv", "path")


def updated(node: Any) -> Any:
    """A config, or part of one, with the names of this version."""
    if isinstance(node, Mapping):
        result = {key: updated(value) for key, value in node.items()}
        if isinstance(result.get("_target_"), str):
            if result["_target_"] == "medvision.models.timm_model.timm_model":
                result["library"] = "timm"
            result["_target_"] = TARGETS.get(result["_target_"], result["_target_"])
            if result["_target_"] == "medvision.training.trackers.tensorboard":
                result = {"_target_": result["_target_"]}
            if result["_target_"].startswith("medvision.data.layouts"):
                result = _with_root(result)
        if isinstance(result.get("source"), dict):
            result = _with_root(result)
        return result
    return [updated(value) for value in node] if isinstance(node, list) else node


def _with_root(node: dict[str, Any]) -> dict[str, Any]:
    return {"root" if key in PLACES else key: value for key, value in node.items()}


def canonical(key: str) -> str:
    """The name that a key of the command line has now.

    >>> canonical("data.csv"), canonical("data.image_size")
    ('data.root', 'data.image_size')
    """
    return "data.root" if key in {f"data.{place}" for place in PLACES} else key
