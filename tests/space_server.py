"""The Space as a process of its own: `python space_server.py CARDS FEW_CARDS ANSWER` prints one address a line until its input ends.

The first page lists the models of the Hub at HF_ENDPOINT; the second shows the cards in the folder CARDS, as its Hub never answers; the
third those in FEW_CARDS until the file ANSWER exists.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "space"))

import gradio as gr
from app import serve
from board import Board


def no_hub():
    raise ConnectionError("no Hub here")


def slow_hub():
    while not answer.exists():
        time.sleep(0.05)
    raise ConnectionError("no Hub here")


cards, few_cards, answer = map(Path, sys.argv[1:])
for board in (Board(), Board(no_hub, cards), Board(slow_hub, few_cards, patience=600)):
    address = serve(board, server_name="127.0.0.1", prevent_thread_lock=True)
    print(address, flush=True)
for page in gr.Blocks.get_instances():
    page._queue.sleep_when_free = 0.02  # s; looking for events a thousand times a second takes a twelfth of a core
sys.stdin.read()
