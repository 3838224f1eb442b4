"""The provider's kernels of a graph, without a GPU: the libraries of a described GPU, and the counts."""

import ctypes
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from benchmarks.nvidia.provider.described_cuda import build_described_cuda
from benchmarks.nvidia.provider.kernels import GraphToOpen, ask_provider, count_kernels
from fewstep.graph.files import io
from tests.onnx_text import graph_of_text
from tests.refusals import refuses


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_that_needs_cuda_loads_with_the_described_one(tmp_path: Path) -> None:
    """It gets memory, copies, one GPU, and success from all functions without a description."""
    source = """
        int cudaGetDeviceCount(int *); int cudaMalloc(void **, unsigned long); int cublasGemmEx(void);
        int ask(void) { int count; void *memory; return cudaGetDeviceCount(&count) || cudaMalloc(&memory, 8)
            || cublasGemmEx() ? -1 : count; }"""
    (tmp_path / "asks.c").write_text(source)
    (tmp_path / "empty.c").write_text("")
    needed = tmp_path / "libcudart.so.13"
    for command in (
        ["gcc", "-shared", "-o", needed, "-Wl,-soname,libcudart.so.13", tmp_path / "empty.c"],
        ["gcc", "-shared", "-fPIC", "-Wl,--no-as-needed", "-o", tmp_path / "asks.so", tmp_path / "asks.c", needed],
    ):
        subprocess.run(command, check=True)
    folder = build_described_cuda(tmp_path / "asks.so", tmp_path)
    assert build_described_cuda(tmp_path / "asks.so", tmp_path) == folder  # built once
    ctypes.CDLL(str(folder / "libcudart.so.13"), mode=ctypes.RTLD_GLOBAL)
    assert ctypes.CDLL(str(tmp_path / "asks.so")).ask() == 1


def test_views_are_not_counted_and_domains_are_named(tmp_path: Path) -> None:
    text = """(float[2, 8] x) => (float[2, 8] y) {
        a = Reshape(x, whole) b = Sigmoid(a) c = com.microsoft.QuickGelu(b) y = Sigmoid(c) }"""
    io.save(graph_of_text(text, whole=np.int64([2, 8])), tmp_path / "graph.onnx")
    assert count_kernels(tmp_path / "graph.onnx") == Counter({"Sigmoid": 2, "QuickGelu": 1})


def test_an_environment_without_the_provider_is_named(tmp_path: Path) -> None:
    graphs = [GraphToOpen("a graph", tmp_path / "graph.onnx", False)]
    with refuses("libonnxruntime_providers_cuda.so", "onnxruntime-gpu"):
        ask_provider(graphs, tmp_path / "bin/python", tmp_path, tmp_path)
