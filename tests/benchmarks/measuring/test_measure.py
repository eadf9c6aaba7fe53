import contextlib
import copy
import itertools
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from benchmarks.measuring import environment, measure
from benchmarks.measuring.environment import capture
from benchmarks.measuring.measure import measure_pair, quartiles
from benchmarks.records.runtime import Latency
from zoo.core.cost.timing_thread import flushing_share

QUICK = Latency(batches=(1, 4), rounds=6, block_ms=0.5, warmup_ms=0.5)


@pytest.fixture
def scripted(monkeypatch):
    """Replaces clocks by a script: milliseconds a pass by network, drifting from block to block."""

    def install(ms_by_net, drift=1.0):
        blocks = []

        def timer(run, device, threads):
            net, (images,) = run.func, run.args

            def block_ms(passes):
                blocks.append((net, passes))
                return ms_by_net[net.name] * len(images) * drift ** len(blocks)

            return block_ms

        monkeypatch.setattr(measure, "_block_timer", timer)
        return blocks

    return install


class Named(nn.Linear):
    def __init__(self, name):
        super().__init__(1, 1)
        self.name = name


def pair(latency=QUICK, **more):
    return measure_pair(Named("parent"), Named("pruned"), (3, 4, 1), latency=latency, **more)


def test_the_ratio_is_pruned_over_parent_and_the_control_is_one(scripted):
    scripted({"parent": 3.0, "pruned": 1.0})
    found = pair().latency
    assert [each.batch for each in found] == [1, 4]
    assert [each.ratio.median for each in found] == [1 / 3, 1 / 3]
    assert [each.speedup for each in found] == [3.0, 3.0]
    assert [each.control.median for each in found] == [1.0, 1.0]
    assert [each.pruned_ms.median for each in found] == [1.0, 4.0]


def test_rounds_are_interleaved_so_that_drift_hardly_reaches_the_ratio(scripted):
    scripted({"parent": 2.0, "pruned": 1.0}, drift=1.05)
    single, _ = pair().latency
    # Six rounds of three blocks drift by 1.05 ** 18 = 2.4; within a round it is two blocks at most.
    assert 0.5 / 1.11 < single.ratio_interval.low <= single.ratio_interval.high < 0.5 * 1.11
    # Every order occurs once, so that before and after cancel.
    assert single.ratio.median == pytest.approx(0.5, rel=0.01)
    assert single.control.median == pytest.approx(1.0, rel=0.01)


def test_all_networks_run_equally_many_passes_in_every_order(scripted):
    blocks = scripted({"parent": 2.0, "pruned": 1.0})
    (found,) = pair(QUICK.model_copy(update={"batches": (1,), "block_ms": 7.0})).latency
    timed = blocks[-18:]
    assert {passes for _, passes in timed} == {4} == {found.passes_per_block}
    orders = [tuple(net for net, _ in timed[i : i + 3]) for i in range(0, 18, 3)]
    assert sorted(map(id, orders[0])) == sorted({id(net) for net, _ in timed})
    assert set(orders) == set(itertools.permutations(orders[0]))


def test_the_control_is_a_copy_of_the_parent_with_memory_of_its_own(scripted):
    blocks = scripted({"parent": 1.0, "pruned": 1.0})
    pair()
    nets = {net for net, _ in blocks}
    assert sorted(net.name for net in nets) == ["parent", "parent", "pruned"]
    assert len({net.weight.data_ptr() for net in nets}) == 3


@pytest.mark.parametrize(("jitter", "settles"), [(1.05, True), (1.5, False)])
def test_warm_up_lasts_until_the_last_windows_agree(jitter, settles):
    windows = []

    def timer(passes):
        windows.append((passes, 10.0 if len(windows) < 2 else jitter ** (len(windows) % 2)))
        return windows[-1][1]

    warm = measure._warm_up(timer, 10.0)
    spent = sum(passes * ms for passes, ms in windows)
    assert warm.settled == settles and warm.passes == sum(passes for passes, _ in windows)
    # The first two windows are ten times too slow: they cannot be among the three that agree.
    assert len(windows) == 5 if settles else spent >= 40.0


def test_what_was_measured_is_stated():
    net = nn.Conv2d(3, 4, 3)
    (found, _) = measure_pair(net, net, (3, 8, 8), latency=QUICK).latency
    assert (found.rounds, found.threads, found.dtype) == (6, 1, "float32")
    assert found.memory_format == "channels_last" and found.warmup_passes >= 9
    assert found.way == "float32, channels_last" and found.tf32 is None
    assert found.parent_ms.q25 <= found.parent_ms.median <= found.parent_ms.q75
    assert found.ratio_interval.low <= found.ratio.median <= found.ratio_interval.high
    assert found.ratio_interval.level == 1 - 2 / 2**6


def test_too_few_rounds_give_no_interval():
    net = nn.Conv2d(3, 4, 3)
    few = QUICK.model_copy(update={"rounds": 5})
    (found, _) = measure_pair(net, net, (3, 8, 8), latency=few).latency
    assert found.ratio_interval is None and found.speedup_interval is None


def test_further_ways_change_one_thing_each():
    net = nn.Conv2d(3, 4, 3)
    asked = QUICK.model_copy(update={"further": ("contiguous", "bfloat16"), "batches": (2,)})
    found = measure_pair(net, net, (3, 8, 8), latency=asked)
    assert [each.way for each in found.latency] == ["float32, channels_last"]
    assert [each.way for each in found.further_latency] == [
        "float32, contiguous",
        "bfloat16, channels_last",
    ]
    assert found.left_out == {}


def test_a_way_that_is_not_here_is_left_out_with_its_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    net = nn.Conv2d(3, 4, 3)
    asked = QUICK.model_copy(update={"further": ("cuda_graph", "onnxruntime")})
    found = measure_pair(net, net, (3, 8, 8), latency=asked)
    assert len(found.latency) == 2 and found.further_latency == ()
    assert "CUDA" in found.left_out["cuda_graph"]
    assert "pip install onnx onnxscript onnxruntime" in found.left_out["onnxruntime"]


def test_a_compiler_that_fails_leaves_the_main_way_alone(monkeypatch):
    def broken(net, **_):
        raise RuntimeError("no compiler in /home/me/bin/g++\nat a place")

    monkeypatch.setattr(torch, "compile", broken)
    net = nn.Conv2d(3, 4, 3)
    asked = QUICK.model_copy(update={"further": ("compile",)})
    found = measure_pair(net, net, (3, 8, 8), latency=asked)
    assert len(found.latency) == 2
    assert found.left_out == {"compile": "RuntimeError: no compiler in g++"}


@pytest.mark.slow
def test_compiled_networks_are_timed_however_many_were_compiled_before():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    asked = QUICK.model_copy(update={"further": ("compile",)})
    for _ in range(3):  # three networks at two batches each; torch keeps eight forms
        found = measure_pair(net, net, (3, 8, 8), latency=asked)
        assert found.left_out == {}
        assert [each.runtime for each in found.further_latency] == ["compile"] * 2


def test_onnx_runtime_is_timed_beside_torch():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = timm.create_model("test_resnet", num_classes=3)
    asked = QUICK.model_copy(update={"further": ("onnxruntime",), "fold_batch_norm": True})
    found = measure_pair(net, net, (3, 32, 32), latency=asked)
    assert found.left_out == {}
    assert [(each.runtime, each.batch) for each in found.further_latency] == [
        ("onnxruntime", 1),
        ("onnxruntime", 4),
    ]
    assert flushing_share(1) == 0.0  # the caller goes on computing as before


def test_batch_norms_are_folded_for_all_networks_alike(monkeypatch):
    seen = []
    spied = measure._ready
    monkeypatch.setattr(measure, "_ready", lambda net, *rest: seen.append(net) or spied(net, *rest))
    net = timm.create_model("test_resnet", num_classes=3)
    folded = QUICK.model_copy(update={"fold_batch_norm": True})
    runtimes = measure_pair(net, net, (3, 32, 32), latency=folded)
    found = runtimes.latency[0]
    assert found.batch_norm_folded and "batch norm folded" in found.way
    # What is kept on disk is the network as it is, since it may be trained on.
    plain = measure_pair(net, net, (3, 32, 32), latency=QUICK).footprint
    assert runtimes.footprint["pruned"].disk_bytes == plain["pruned"].disk_bytes
    del seen[3:]
    assert len(seen) == 3
    assert not [m for each in seen for m in each.modules() if isinstance(m, nn.BatchNorm2d)]
    assert [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]


class Chatty(nn.Module):
    """Keeps how much of a divided operator on denormal numbers is flushed, pass by pass."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.seen = []

    def forward(self, images):
        bits = torch.full((4 * 65_536,), 1_000, dtype=torch.int32)
        product = bits.view(torch.float32).mul(1.0).view(torch.int32)
        self.seen.append((float(product.eq(0).double().mean()), torch.get_num_threads()))
        return images


@pytest.mark.parametrize("threads", [1, 2])
def test_denormal_numbers_are_flushed_in_every_thread_of_a_timed_pass(monkeypatch, threads):
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    torch.set_flush_denormal(False)
    monkeypatch.setattr(measure.copy, "deepcopy", lambda net: net)
    net, pool = Chatty(), Chatty()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        pool(None)  # the threads that this one works with are there now, and do not flush
        latency = QUICK.model_copy(update={"threads": threads, "batches": (1,)})
        (found,) = measure_pair(net, net, (3, 8, 8), latency=latency).latency
        timed = net.seen[2:-2]  # before: the counts of denormals; after: the peaks
        assert set(timed) == {(1.0, threads)} and found.flush_denormal
        pool(None)
        assert pool.seen == [(0.0, threads)] * 2
    finally:
        torch.set_num_threads(before)


def test_the_networks_are_left_as_they_were():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).train()
    before = copy.deepcopy(net.state_dict())
    threads = torch.get_num_threads()
    measure_pair(net, net, (3, 8, 8), latency=QUICK)
    assert net.training and torch.get_num_threads() == threads
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("flushing", [True, False])
def test_flushing_of_denormal_numbers_is_put_back(flushing):
    net = nn.Conv2d(3, 4, 3)
    if not torch.set_flush_denormal(flushing):
        pytest.skip("this processor cannot flush denormal numbers")
    try:
        measure_pair(net, net, (3, 8, 8), latency=QUICK)
        assert (float(torch.full((1,), 1e-40).mul(1.0)) == 0.0) == flushing
    finally:
        torch.set_flush_denormal(False)


def test_quartiles_of_one_to_five():
    found = quartiles([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.q25, found.median, found.q75) == (2.0, 3.0, 4.0)


def test_the_environment_says_what_it_ran_on_and_not_where():
    found = capture(workers=3)
    assert found.workers == 3 and found.torch == torch.__version__.split("+")[0]
    text = found.model_dump_json()
    assert platform.node() not in text and str(Path.cwd()) not in text


def test_times_are_suspect_where_denormals_are_many_and_not_flushed(monkeypatch):
    monkeypatch.setattr(measure, "in_quiet_thread", lambda call, threads: call(False))
    net = nn.Conv2d(3, 4, 3)
    (clean, _) = measure_pair(net, net, (3, 8, 8), latency=QUICK).latency
    net.weight.data.fill_(1e-40)
    (dirty, _) = measure_pair(net, net, (3, 8, 8), latency=QUICK).latency
    assert clean.suspect is None and "denormal" in dirty.suspect
    monkeypatch.setattr(measure, "in_quiet_thread", lambda call, threads: call(True))
    (flushed, _) = measure_pair(net, net, (3, 8, 8), latency=QUICK).latency
    assert flushed.suspect is None


LONG = Latency(batches=(1,), rounds=6, block_ms=60.0, warmup_ms=60.0)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be pinned")
def test_a_processor_that_is_shared_is_told_and_makes_times_suspect():
    before, net = os.sched_getaffinity(0), nn.Conv2d(3, 4, 3)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        core = {min(before)}
        os.sched_setaffinity(0, core)
        os.sched_setaffinity(busy.pid, core)
        (found,) = measure_pair(net, net, (3, 8, 8), latency=LONG).latency
    finally:
        busy.kill()
        busy.wait()
        os.sched_setaffinity(0, before)
    assert 0 < found.processor_share < 0.75  # a half, were the two alone
    assert found.is_disturbed and found.is_noise and found.verdict == "suspect"
    assert found.suspect.endswith("% of the time: something else ran there")


def test_a_processor_of_its_own_is_told_and_short_rounds_tell_nothing(monkeypatch):
    net = nn.Conv2d(3, 4, 3)
    with monkeypatch.context() as patch:
        patch.setattr(measure.time, "thread_time", time.perf_counter)
        (found,) = measure_pair(net, net, (3, 8, 8), latency=LONG).latency
    assert found.processor_share == pytest.approx(1.0, abs=0.01)
    assert not found.is_disturbed and found.suspect is None
    for other in (QUICK, LONG.model_copy(update={"threads": 2})):
        first = measure_pair(net, net, (3, 8, 8), latency=other).latency[0]
        assert first.processor_share is None and not first.is_disturbed


@pytest.mark.gpu
def test_cuda_events_give_times_and_peak_memory():
    parent, pruned = nn.Conv2d(3, 256, 3), nn.Conv2d(3, 8, 3)
    found = measure_pair(parent, pruned, (3, 64, 64), latency=QUICK, device="cuda")
    first = found.latency[0]
    assert first.parent_ms.median > 0 and first.parent_peak_bytes > first.pruned_peak_bytes > 0
    assert {each.way for each in found.further_latency} == {
        "bfloat16, channels_last",
        "float32 with TF32 convolutions, contiguous",
    }


@pytest.mark.gpu
def test_a_cuda_graph_is_replayed():
    net = timm.create_model("test_resnet", num_classes=3)
    asked = QUICK.model_copy(update={"further": ("cuda_graph",)})
    found = measure_pair(net, net, (3, 32, 32), latency=asked, device="cuda")
    assert found.left_out == {}
    eager, graph = found.latency[0], found.further_latency[0]
    assert graph.runtime == "cuda_graph"
    assert graph.parent_ms.median < eager.parent_ms.median  # batch 1 of a tiny network: launches


def test_bfloat16_is_cast_once_and_not_in_every_pass():
    class Seen(nn.Conv2d):
        """Notes in which types it runs, and whether autocast is on."""

        seen = set()

        def forward(self, images):
            self.seen.add((images.dtype, self.weight.dtype, torch.is_autocast_enabled("cpu")))
            return super().forward(images)

    net, asked = Seen(3, 4, 3), QUICK.model_copy(update={"further": ("bfloat16",)})
    found = measure_pair(net, net, (3, 8, 8), latency=asked)
    assert found.left_out == {} and found.further_latency[0].dtype == "bfloat16"
    kinds = (torch.float32, torch.bfloat16)
    assert Seen.seen == {(kind, kind, False) for kind in kinds}
    assert net.weight.dtype == torch.float32


CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("convolutions", "products", "told"),
    [
        ("tf32", "ieee", " with TF32 convolutions"),
        ("tf32", "tf32", " with TF32 convolutions and products"),
        ("ieee", "tf32", " with TF32 products"),
        ("ieee", "none", ""),
    ],
)
def test_float32_says_what_was_rounded_to_tf32(convolutions, products, told, monkeypatch):
    monkeypatch.setattr(
        torch.backends.cudnn, "conv", SimpleNamespace(fp32_precision=convolutions), raising=False
    )
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(fp32_precision=products))
    setting = measure._Setting(QUICK, CUDA, None, has_many_denormals=False)
    found = measure._tf32(setting)
    assert found == {"tf32": convolutions == "tf32", "tf32_products": products == "tf32"}
    (plain, _) = measure_pair(
        nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), (3, 8, 8), latency=QUICK
    ).latency
    assert plain.way == "float32, channels_last" and plain.tf32 is plain.tf32_products is None
    assert plain.model_copy(update=found).way == f"float32{told}, channels_last"
    assert measure._tf32(measure._Setting(QUICK, CUDA, "bfloat16", has_many_denormals=False)) == {}


def test_peaks_on_cuda_are_taken_after_a_first_pass_without_a_choice_of_kernels(monkeypatch):
    done = []

    def noting(name, value=0):
        return lambda *_: (done.append((name, torch.backends.cudnn.benchmark)), value)[1]

    monkeypatch.setattr(torch.cuda, "synchronize", noting("synchronize"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", noting("reset"))
    monkeypatch.setattr(torch.cuda, "memory_allocated", noting("before", 100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", noting("peak", 700))
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    net, was = nn.Conv2d(3, 4, 1, bias=False), torch.backends.cudnn.benchmark
    with measure._settled(CUDA):
        assert torch.backends.cudnn.benchmark
    with measure._settled(CUDA, is_chosen_by_time=False):
        found = measure._peaks([net], [lambda _: noting("pass")], [None], CUDA)
    assert torch.backends.cudnn.benchmark == was
    assert found == {"parent_peak_bytes": 48 + 600}
    order = ["pass", "synchronize", "reset", "before", "pass", "synchronize", "peak"]
    assert done == [(name, False) for name in order]


def test_the_gpu_of_a_record_is_the_one_that_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU at {device}")
    monkeypatch.setattr(environment, "_cudnn", lambda: 9)
    environment._gpu.cache_clear()
    try:
        assert capture(1, "cuda:1").gpu == "GPU at cuda:1"
        assert capture(1, "cuda").gpu == capture(1, "cpu").gpu == "GPU at cuda"
    finally:
        environment._gpu.cache_clear()
