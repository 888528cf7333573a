"""Which implementation is chosen for a device, a dtype and a shape."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ssmrank.kernels import dispatch
from ssmrank.kernels.dispatch import Implementation

GPU, LIBRARY, CPU, PLAIN = Implementation
IS_AVAILABLE = dispatch.is_available
FP32, FP64, BF16 = torch.float32, torch.float64, torch.bfloat16


def tensor(device: str, dtype: torch.dtype, *shape: int) -> Any:
    """A stand-in for a tensor of any device, with what dispatch looks at."""
    return SimpleNamespace(is_cuda=device == "cuda", device=torch.device(device), dtype=dtype, shape=shape)


@pytest.fixture(autouse=True)
def packages(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    present = {"triton", "mamba_ssm"}
    monkeypatch.setattr(dispatch, "is_available", lambda package: package in present)
    return present


@pytest.mark.parametrize(
    ("device", "dtype", "width", "states", "stateless", "expected"),
    [
        ("cuda", BF16, 64, 128, False, GPU),
        ("cuda", FP32, 128, 64, True, GPU),
        ("cuda", FP64, 64, 128, False, PLAIN),
        ("cuda", BF16, 32, 128, True, LIBRARY),
        ("cuda", BF16, 32, 128, False, PLAIN),
        ("cpu", BF16, 16, 32, False, CPU),
        ("cpu", FP64, 16, 32, False, PLAIN),
        ("cpu", FP32, 5, 32, False, PLAIN),
        ("cpu", FP32, 16, 7, False, PLAIN),
    ],
)
def test_ssd(
    device: str, dtype: torch.dtype, width: int, states: int, stateless: bool, expected: Implementation
) -> None:
    x, B = tensor(device, dtype, 9, 2, width), tensor(device, dtype, 9, 1, states)
    assert dispatch.ssd(x, B, stateless=stateless) is expected


@pytest.mark.parametrize(
    ("device", "dtype", "width", "states", "expected"),
    [
        ("cuda", BF16, 32, 128, (64, 128)),
        ("cuda", BF16, 64, 256, (64, 128)),
        ("cuda", FP32, 80, 48, (128, 64)),
        ("cuda", FP64, 32, 128, None),
        ("cuda", BF16, 16, 128, None),
        ("cuda", BF16, 192, 128, None),
        ("cuda", BF16, 64, 16, None),
        ("cpu", BF16, 32, 128, None),
    ],
)
def test_sizes_that_others_are_fitted_to(
    device: str, dtype: torch.dtype, width: int, states: int, expected: tuple[int, int] | None
) -> None:
    assert dispatch.ssd_sizes(tensor(device, dtype, 9, 2, width), tensor(device, dtype, 9, 1, states)) == expected


def test_a_gpu_without_packages_runs_pytorch(packages: set[str]) -> None:
    packages.clear()
    x = tensor("cuda", BF16, 9, 2, 64)
    assert dispatch.ssd(x, x, stateless=True) is PLAIN
    assert dispatch.selective_scan(x) is dispatch.causal_conv(x, 4, continues=True) is dispatch.norm(x, 64) is PLAIN
    assert dispatch.quantization(tensor("cuda", BF16, 9, 64)) is PLAIN
    assert dispatch.cross_entropy(tensor("cuda", BF16, 9, 64)) is PLAIN
    assert not dispatch.mamba1_runs_as_one(x, 4)
    assert not dispatch.mamba2_runs_as_one(x, 4, 64, 64, 128)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [("cuda", BF16, GPU), ("cpu", BF16, CPU), ("cpu", FP64, PLAIN), ("cuda", FP64, PLAIN)],
)
def test_selective_scan(device: str, dtype: torch.dtype, expected: Implementation) -> None:
    assert dispatch.selective_scan(tensor(device, dtype, 9, 5)) is expected


@pytest.mark.parametrize(
    ("device", "dtype", "tokens", "width", "size", "expected"),
    [
        ("cuda", BF16, 9, 128, 128, LIBRARY),
        ("cuda", torch.float16, 9, 512, 256, LIBRARY),
        ("cuda", FP32, 9, 128, 128, PLAIN),
        ("cuda", BF16, 0, 128, 128, PLAIN),
        ("cuda", BF16, 9, 128, 257, PLAIN),
        ("cuda", BF16, 9, 8, 128, PLAIN),
        ("cuda", BF16, 9, 128, 8, PLAIN),
        ("cpu", BF16, 9, 128, 128, PLAIN),
    ],
)
def test_delta_rule(
    device: str, dtype: torch.dtype, tokens: int, width: int, size: int, expected: Implementation, packages: set[str]
) -> None:
    values, keys = tensor(device, dtype, tokens, 2, width), tensor(device, dtype, tokens, 1, size)
    assert dispatch.delta_rule(values, keys, gradients=False) is PLAIN
    packages.add("fla.ops.gated_delta_rule")
    assert dispatch.delta_rule(values, keys, gradients=False) is expected
    with dispatch.batch_invariant():
        assert dispatch.delta_rule(values, keys, gradients=False) is PLAIN


@pytest.mark.parametrize(
    ("capability", "triton", "hip", "expected"),
    [
        ((9, 0), "3.3.1", None, LIBRARY),
        ((9, 0), "3.4.0", None, PLAIN),
        ((9, 0), "3.6.0", None, PLAIN),
        ((9, 0), "3.6.0+git9c2b5b23", None, PLAIN),
        ((9, 0), "3.7.1", None, LIBRARY),
        ((9, 0), "3.10.0", None, LIBRARY),
        ((8, 0), "3.6.0", None, LIBRARY),
        ((10, 0), "3.6.0", None, LIBRARY),
        ((9, 4), "3.6.0", "7.1", LIBRARY),  # AMD's MI300
    ],
)
def test_gradients_of_the_delta_rule_that_a_triton_spoils(
    capability: tuple[int, int],
    triton: str,
    hip: str | None,
    expected: Implementation,
    packages: set[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    packages.add("fla.ops.gated_delta_rule")
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__=triton))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    dispatch._triton_spoils_gradients.cache_clear()
    x = tensor("cuda", BF16, 9, 2, 64)
    try:
        assert dispatch.delta_rule(x, x, gradients=False) is LIBRARY
        assert not caplog.records
        assert {dispatch.delta_rule(x, x, gradients=True) for _ in range(2)} == {expected}
    finally:
        dispatch._triton_spoils_gradients.cache_clear()
    assert [triton in record.getMessage() for record in caplog.records] == [True] * (expected is PLAIN)


def test_a_module_of_a_package_that_is_not_installed() -> None:
    assert IS_AVAILABLE("torch.nn") and not IS_AVAILABLE("no_such_package.of.modules")


@pytest.mark.parametrize(
    ("device", "dtype", "width", "continues", "expected"),
    [
        ("cuda", BF16, 4, False, GPU),
        ("cuda", BF16, 3, False, PLAIN),
        ("cuda", BF16, 3, True, GPU),
        ("cuda", FP64, 4, True, PLAIN),
        ("cpu", BF16, 3, True, CPU),
        ("cpu", FP64, 4, False, PLAIN),
    ],
)
def test_causal_conv(device: str, dtype: torch.dtype, width: int, continues: bool, expected: Implementation) -> None:
    assert dispatch.causal_conv(tensor(device, dtype, 9, 5), width, continues=continues) is expected


@pytest.mark.parametrize(
    ("device", "dtype", "size", "expected"),
    [
        ("cuda", FP32, 7, GPU),
        ("cuda", FP32, dispatch.WIDEST + 1, PLAIN),
        ("cpu", FP32, 32, PLAIN),
    ],
)
def test_norm(device: str, dtype: torch.dtype, size: int, expected: Implementation) -> None:
    assert dispatch.norm(tensor(device, dtype, 9, size), size) is expected


def test_rows_and_vocabularies_that_registers_do_not_hold() -> None:
    assert dispatch.quantization(tensor("cuda", BF16, 9, dispatch.WIDEST)) is GPU
    assert dispatch.quantization(tensor("cuda", BF16, 9, dispatch.WIDEST + 1)) is PLAIN
    assert dispatch.cross_entropy(tensor("cuda", BF16, 9, dispatch.LARGEST_VOCABULARY)) is GPU
    assert dispatch.cross_entropy(tensor("cuda", BF16, 9, dispatch.LARGEST_VOCABULARY + 1)) is PLAIN
    assert dispatch.cross_entropy(tensor("cpu", BF16, 9, 8)) is PLAIN


def test_whole_mixers() -> None:
    projected = tensor("cuda", BF16, 9, 64)
    assert dispatch.mamba1_runs_as_one(projected, 4)
    assert not dispatch.mamba1_runs_as_one(projected, 3)
    assert not dispatch.mamba1_runs_as_one(tensor("cpu", BF16, 9, 64), 4)
    assert dispatch.mamba2_runs_as_one(projected, 4, 64, 128, 1536)
    assert not dispatch.mamba2_runs_as_one(projected, 4, 32, 128, 1536)
    assert not dispatch.mamba2_runs_as_one(projected, 4, 64, 128, dispatch.WIDEST + 1)


def test_a_scan_that_gates(packages: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    packages.add("ssmrank.kernels.ssd.gpu_gated")
    capability = [9, 0]
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: tuple(capability))
    monkeypatch.setattr(torch.version, "hip", None)
    cuda = torch.device("cuda")
    assert dispatch.mamba2_gates_on(cuda, 4, 64, 128, 1)
    assert not dispatch.mamba2_gates_on(torch.device("cpu"), 4, 64, 128, 1)
    for sizes in ((2, 64, 128, 1), (4, 128, 128, 1), (4, 64, 64, 1), (4, 64, 128, 2)):
        assert not dispatch.mamba2_gates_on(cuda, *sizes)
    capability[0] = 10
    assert not dispatch.mamba2_gates_on(cuda, 4, 64, 128, 1)
    capability[0] = 9
    packages.clear()
    assert not dispatch.mamba2_gates_on(cuda, 4, 64, 128, 1)


@pytest.mark.parametrize(
    ("dtype", "place", "stride", "expected"),
    [
        (BF16, 0, 1288, True),
        (BF16, 32, 1288, True),
        (BF16, 2, 1288, False),
        (BF16, 0, 1284, False),
        (FP32, 0, 1288, False),
    ],
)
def test_a_scan_that_gates_reads_aligned_rows(
    dtype: torch.dtype, place: int, stride: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "mamba2_gates_on", lambda *values: True)
    room = torch.zeros(4096, dtype=torch.uint8)
    first = -room.data_ptr() % 16 + place
    projected = room[first : first + dtype.itemsize].view(dtype).as_strided((1, 1), (stride, 1))
    assert dispatch.mamba2_gates(projected, 4, 64, 128, 1) is expected
    assert not dispatch.mamba2_gates(projected[:0], 4, 64, 128, 1)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [("cuda", BF16, GPU), ("cuda", FP32, GPU), ("cpu", FP32, CPU), ("cpu", BF16, PLAIN), ("cuda", FP64, PLAIN)],
)
def test_products_of_rows(device: str, dtype: torch.dtype, expected: Implementation) -> None:
    assert dispatch.product(tensor(device, dtype, 9, 5)) is expected


def test_what_depends_on_the_batch_does_not_serve_where_it_must_not(packages: set[str]) -> None:
    packages.add("mamba_ssm")
    x, b = tensor("cuda", BF16, 9, 2, 32), tensor("cuda", BF16, 9, 1, 17)
    assert dispatch.ssd(x, b, stateless=True) is LIBRARY
    assert not dispatch.attends_in_order(tensor("cpu", BF16, 9, 2, 8))
    with dispatch.batch_invariant():
        assert dispatch.is_batch_invariant()
        assert dispatch.ssd(x, b, stateless=True) is PLAIN
        assert dispatch.attends_in_order(tensor("cpu", BF16, 9, 2, 8))
        assert not dispatch.attends_in_order(tensor("cuda", BF16, 9, 2, 8))
    assert not dispatch.is_batch_invariant()


def test_no_kernel_is_imported_before_it_serves() -> None:
    source = (
        "import sys\n"
        "from ssmrank.kernels import causal_conv, cross_entropy, dispatch, float8, norms, selective_scan, ssd\n"
        "from ssmrank.kernels import delta_rule\n"
        "wrong = [name for name in sys.modules if name in ('numba', 'fla') or name.endswith(('.cpu', '.gpu'))]\n"
        "print([name for name in wrong if name.startswith(('numba', 'fla', 'ssmrank'))])\n"
    )
    assert subprocess.check_output([sys.executable, "-c", source], text=True).strip() == "[]"


@pytest.mark.parametrize(
    ("name", "wide", "mkl", "expected"),
    [
        ("znver5", True, True, True),
        ("znver3", False, True, False),
        ("znver4", True, False, False),
        ("sapphirerapids", True, True, False),
    ],
)
def test_library_is_slow(monkeypatch: pytest.MonkeyPatch, name: str, wide: bool, mkl: bool, expected: bool) -> None:
    from llvmlite import binding

    monkeypatch.setattr(binding, "get_host_cpu_name", lambda: name)
    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"avx512f": wide})
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    assert dispatch.library_is_slow.__wrapped__() is expected
