"""What every test starts from: one thread, no hub, caches in a folder of this session, and nothing left behind."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the processes that tests start
# Scripts that tests start, and what they share.
collect_ignore = [
    "training/modules_of_users.py",
    "resumable.py",
    "two_ranks.py",
    "cache_builder.py",
    "cli/many_commands.py",
    "cli/cut_files.py",
    "cli/recorded.py",
    "cli/full_disk.py",
]
collect_ignore += ["compat/theirs.py", "pages.py"]
REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden instead of comparing with it")


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keep teachers and tokenised rows of the tests away from the user's."""
    folder = tmp_path_factory.mktemp("kd_cache")
    os.environ["KD_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def nothing_leaks() -> Iterator[None]:
    """Put environment and logging back, and leave no process group behind."""
    before, level = dict(os.environ), logging.root.level
    yield
    logging.root.setLevel(level)
    for logger in logging.root.manager.loggerDict.values():  # Hydra's "disabled" silences every one there is
        logger.disabled = False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder with train.py and configs, where tests run from a checkout."""
    return REPOSITORY


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets: `$KD_DATA`, or `shared/data` beside the repository."""
    folder = Path(os.environ.get("KD_DATA") or REPOSITORY.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set KD_DATA to a folder with real data sets")
    return folder


def pytest_collection_finish() -> None:
    """Spare the garbage collector what lives as long as the process: every test and all that was imported."""
    gc.collect()
    gc.freeze()
