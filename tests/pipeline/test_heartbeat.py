"""A rank that waits for rank 0, which may end on another machine."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from kd_lightning.core.errors import KDError
from kd_lightning.pipeline.heartbeat import HEARTBEAT, heartbeat, wait_for


def test_a_file_is_waited_for_as_long_as_rank_0_works(tmp_path: Path) -> None:
    def work() -> None:
        with heartbeat(tmp_path, interval=0.02):
            time.sleep(1.5)  # far longer than the silence that ends the wait
            (tmp_path / "result.json").touch()

    first = threading.Thread(target=work)
    first.start()
    wait_for(tmp_path / "result.json", tmp_path, silence=0.5, interval=0.01)
    first.join()
    assert not (tmp_path / HEARTBEAT).exists()


@pytest.mark.parametrize("left", [True, False], ids=["killed", "failed"])
def test_a_rank_0_that_is_gone_ends_the_wait(left: bool, tmp_path: Path) -> None:
    if left:
        (tmp_path / HEARTBEAT).write_text("1")
    with pytest.raises(KDError, match=r"Rank 0, on the first machine, has stopped: it has not written .*config\.yaml"):
        wait_for(tmp_path / "config.yaml", tmp_path, silence=0.1, interval=0.01)
