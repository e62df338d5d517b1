import os
import signal

import pytest

from medvision.cli.stop_signal import StopSignal
from medvision.errors import Interrupted


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_outside_training_a_signal_stops_at_once_and_handlers_are_restored(signum):
    before = signal.getsignal(signum)
    stop = StopSignal()
    with stop.installed(), pytest.raises(Interrupted) as caught:
        os.kill(os.getpid(), signum)
    assert caught.value.signum == signum
    assert signal.getsignal(signum) is before


def test_while_deferred_the_first_signal_waits_and_the_second_does_not():
    stop = StopSignal()
    seen = []

    def training():
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append(stop.signum)
        os.kill(os.getpid(), signal.SIGTERM)
        seen.append("never reached")

    with stop.installed(), pytest.raises(Interrupted), stop.deferring():
        training()
    assert seen == [signal.SIGTERM]


def test_a_signal_that_training_did_not_meet_is_raised_at_its_end():
    stop = StopSignal()
    with stop.installed(), pytest.raises(Interrupted), stop.deferring():
        os.kill(os.getpid(), signal.SIGINT)
