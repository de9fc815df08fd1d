"""The compute room: device, precision, schedule, and passes that do not depend on their neighbours."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fext.compute.device import (
    check_jit_backend,
    choose_device,
    find_machine,
    keeping_freed_memory,
    prepare_computation,
)
from fext.compute.inference import reconstruct
from fext.compute.optimization import learning_rate_at
from fext.errors import DeviceError, SettingsError
from fext.model.autoencoder import build_autoencoder
from fext.model.plans import make_plan
from fext.settings import Settings

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")


@no_gpu
@pytest.mark.parametrize("name", ["GPU", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_there_is_refused_and_the_cpu_named(name: str) -> None:
    with pytest.raises(DeviceError, match=f"training_device = '{name}'.*set training_device to 'CPU'"):
        choose_device(name)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="needs a machine without MPS")
def test_mps_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="MPS"):
        choose_device("MPS")


@no_gpu
def test_auto_falls_back_to_the_cpu() -> None:
    assert choose_device("auto").type in ("cpu", "mps")


def test_mixed_precision_follows_the_setting_and_auto_follows_the_machine(tiny: Callable[..., Settings]) -> None:
    assert prepare_computation(tiny(use_mixed_precision=True)).precision == "bfloat16"
    assert prepare_computation(tiny(use_mixed_precision=False)).precision == "float32"
    expected = "bfloat16" if find_machine().fast_bfloat16 else "float32"
    assert prepare_computation(tiny(use_mixed_precision="auto")).precision == expected


def test_a_backend_that_torch_does_not_know_is_refused_with_those_it_knows(tiny: Callable[..., Settings]) -> None:
    with pytest.raises(SettingsError, match=r"jit_backend = 'nonsense'.*inductor"):
        check_jit_backend(tiny(jit_compile=True, jit_backend="nonsense"))


def test_the_constant_schedule_keeps_the_learning_rate(tiny: Callable[..., Settings]) -> None:
    settings = tiny(learning_rate=0.01)
    assert {learning_rate_at(settings, progress) for progress in (0.0, 0.3, 1.0)} == {0.01}


def test_the_cosine_schedule_falls_from_the_learning_rate_to_a_hundredth(tiny: Callable[..., Settings]) -> None:
    settings = tiny(learning_rate=0.01, lr_schedule="cosine")
    rates = [learning_rate_at(settings, progress) for progress in np.linspace(0, 1, 11)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(0.01)
    assert rates[5] == pytest.approx(0.01 * 0.505)
    assert rates[10] == pytest.approx(0.0001)


def test_reconstructions_stay_in_range(tiny: Callable[..., Settings]) -> None:
    computation = prepare_computation(tiny())
    model = build_autoencoder(make_plan("redux", (64, 64, 3)), seed=1).eval()
    made = reconstruct(model, torch.rand(3, 3, 64, 64), computation, batch_size=4)
    assert made.shape == (3, 3, 64, 64)
    assert 0 <= made.min() <= made.max() <= 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs the C library of Linux")
def test_memory_that_a_tensor_has_left_serves_the_next_one_and_is_given_back_in_the_end() -> None:
    import resource

    def memory_in_use() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    size = 64_000_000
    with keeping_freed_memory():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(10):
            torch.ones(size // 4)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 3 * size // resource.getpagesize()
        kept = memory_in_use()
    assert memory_in_use() < kept - size // 2
