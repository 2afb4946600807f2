"""Two processes that begin with sslzoo imported: they are forked from a server, as importing takes each of them seconds."""

import torch.multiprocessing as multiprocessing


def start_two_processes(function, arguments: tuple, join: bool = True):
    """Calls `function(rank, *arguments)` in both; `join` as for `torch.multiprocessing.spawn`."""
    multiprocessing.set_forkserver_preload(["sslzoo.training", "sslzoo.evaluation"])
    return multiprocessing.start_processes(function, arguments, nprocs=2, join=join, start_method="forkserver")
