"""Processes that begin with sslzoo imported: they are forked from a server, as importing takes each of them seconds."""

import torch.multiprocessing as multiprocessing


def start_two_processes(function, arguments: tuple, join: bool = True):
    """Calls `function(rank, *arguments)` in both; `join` as for `torch.multiprocessing.spawn`."""
    return _start(function, arguments, 2, join)


def run_in_process(function, arguments: tuple) -> None:
    """Calls `function(0, *arguments)` in one. Raises `ProcessRaisedException` or `ProcessExitedException`."""
    _start(function, arguments, 1, True)


def _start(function, arguments: tuple, count: int, join: bool):
    multiprocessing.set_forkserver_preload(["sslzoo.training", "sslzoo.evaluation"])
    return multiprocessing.start_processes(function, arguments, nprocs=count, join=join, start_method="forkserver")
