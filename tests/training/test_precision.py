import platform

import pytest
import torch

from medvision.errors import ConfigError
from medvision.training.trainer import build_trainer, check_precision, choose_precision


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
def test_bfloat16_is_refused_where_the_device_has_none(monkeypatch, accelerator):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "an older card")
    with pytest.raises(ConfigError, match=r"has no bfloat16 arithmetic\.\nUse trainer.precision=32-true"):
        check_precision("bf16-mixed", accelerator)
    check_precision("32-true", accelerator)
    assert choose_precision(accelerator, 512) == "32-true"


def test_the_trainer_asks(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(ConfigError, match="this processor"):
        build_trainer(accelerator="cpu", precision="bf16-mixed")


def test_processors_of_other_makes_are_not_judged(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    check_precision("bf16-mixed", "cpu")
