import copy
import platform
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import measure
from benchmarks.environment import capture
from benchmarks.measure import denormal_share, measure_pair, quartiles
from benchmarks.record import Latency

QUICK = Latency(batches=(1, 4), rounds=5, block_ms=0.5, warmup_ms=0.5)


@pytest.fixture
def scripted(monkeypatch):
    """Replaces clocks by a script: milliseconds a pass by network, drifting from block to block."""

    def install(ms_by_net, drift=1.0):
        blocks = []

        def timer(net, images, threads):
            def block_ms(passes):
                blocks.append((net.name, passes))
                return ms_by_net[net.name] * len(images) * drift ** len(blocks)

            return block_ms

        monkeypatch.setattr(measure, "_block_timer", timer)
        return blocks

    return install


class Named(nn.Linear):
    def __init__(self, name):
        super().__init__(1, 1)
        self.name = name


def test_the_ratio_is_pruned_over_parent_and_the_control_is_one(scripted):
    scripted({"parent": 3.0, "pruned": 1.0})
    found = measure_pair(Named("parent"), Named("pruned"), (3, 4, 4), latency=QUICK)
    assert [each.batch for each in found] == [1, 4]
    assert [each.ratio.median for each in found] == [1 / 3, 1 / 3]
    assert [each.control.median for each in found] == [1.0, 1.0]
    assert [each.pruned_ms.median for each in found] == [1.0, 4.0]
    assert [each.images_per_second for each in found] == [1_000.0, 1_000.0]


def test_rounds_are_interleaved_so_that_drift_hardly_reaches_the_ratio(scripted):
    scripted({"parent": 2.0, "pruned": 1.0}, drift=1.05)
    single, _ = measure_pair(Named("parent"), Named("pruned"), (3, 4, 4), latency=QUICK)
    # Five rounds of three blocks drift by 1.05 ** 15 = 2.1; within a round it is one block.
    assert 0.5 / 1.06 < single.ratio.q25 <= single.ratio.q75 < 0.5 * 1.06


def test_both_networks_run_equally_many_passes_and_take_turns_in_going_first(scripted):
    blocks = scripted({"parent": 2.0, "pruned": 1.0})
    latency = QUICK.model_copy(update={"batches": (1,), "block_ms": 7.0, "rounds": 4})
    (found,) = measure_pair(Named("parent"), Named("pruned"), (3, 4, 4), latency=latency)
    timed = blocks[found.warmup_passes :]
    assert {passes for _, passes in timed} == {4} == {found.passes_per_block}
    firsts = [timed[i][0] for i in range(0, len(timed), 3)]
    assert firsts == ["parent", "pruned", "parent", "pruned"]


def test_what_was_measured_is_stated():
    net = nn.Conv2d(3, 4, 3)
    (found, _) = measure_pair(net, net, (3, 8, 8), latency=QUICK)
    assert (found.rounds, found.threads, found.dtype) == (5, 1, "float32")
    assert found.memory_format == "channels_last" and found.warmup_passes >= 2
    assert found.parent_ms.q25 <= found.parent_ms.median <= found.parent_ms.q75


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


@pytest.mark.parametrize("flushing", [True, False])
def test_denormal_weights_are_counted_whether_or_not_they_are_flushed(flushing):
    net = nn.Linear(4, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 0.0, 1e-40, -1e-41]])
    torch.set_flush_denormal(flushing)
    try:
        assert denormal_share(net) == 0.5
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


@pytest.mark.gpu
def test_cuda_events_give_times_and_peak_memory():
    parent, pruned = nn.Conv2d(3, 256, 3), nn.Conv2d(3, 8, 3)
    found, _ = measure_pair(parent, pruned, (3, 64, 64), latency=QUICK, device="cuda")
    assert found.parent_ms.median > 0 and found.parent_peak_bytes > found.pruned_peak_bytes > 0
