from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from zoo.core.cost.timing_thread import flushing_share, in_quiet_thread


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal numbers")
    torch.set_flush_denormal(False)
    yield
    torch.set_flush_denormal(False)
    torch.set_num_threads(before)


def test_the_switch_alone_reaches_one_thread_of_two():
    """Why a new thread is needed; if this stops holding, the module can go."""
    assert flushing_share(2) == 0.0  # and the second thread has been started
    torch.set_flush_denormal(True)
    assert flushing_share(2) == 0.5


@pytest.mark.parametrize("threads", [1, 2])
def test_in_a_quiet_thread_every_thread_flushes(threads):
    assert flushing_share(2) == 0.0

    def call(flushed):
        return flushed, flushing_share(threads), torch.get_num_threads()

    assert in_quiet_thread(call, threads=threads) == (True, 1.0, threads)
    assert in_quiet_thread(call, threads=threads, flush=False) == (False, 0.0, threads)


def test_the_caller_s_threads_stay_as_they_were():
    in_quiet_thread(lambda _: None, threads=1)
    assert torch.get_num_threads() == 2 and flushing_share(2) == 0.0
    with ThreadPoolExecutor(1) as pool:  # a new thread takes over what was set last, by anyone
        assert pool.submit(torch.get_num_threads).result() == 2
    torch.set_flush_denormal(True)
    in_quiet_thread(lambda _: None, threads=1, flush=False)
    assert flushing_share(2) == 0.5


def test_an_error_reaches_the_caller():
    def fails(_):
        raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        in_quiet_thread(fails, threads=1)
    assert torch.get_num_threads() == 2
