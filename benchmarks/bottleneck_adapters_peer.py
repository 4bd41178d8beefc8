"""Pfeiffer adapters with the `adapters` library; runs in the environment that has it."""

import argparse

import adapters
from adapters import AdapterTrainer, SeqBnConfig
from common import Measured, emit, parser
from hugging_face import Peer

NAME = "benchmark"
WIDTH = 48


def measure(args: argparse.Namespace) -> Measured:
    """Train the adapters and the classifier, and score them."""
    peer = Peer(args, expert=args.way == "expert")
    adapters.init(peer.model)
    # The library's width is int(d // reduction_factor).
    factor = peer.model.config.hidden_size / (WIDTH + 0.5)
    peer.model.add_adapter(NAME, config=SeqBnConfig(reduction_factor=factor))
    peer.model.train_adapter(NAME)
    return peer.measure(peer.model, AdapterTrainer, f"adapters.{NAME}")


if __name__ == "__main__":
    arguments = parser(__doc__ or "", "").parse_args()
    emit(lambda: measure(arguments))
