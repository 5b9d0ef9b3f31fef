"""Which conversations are held out for evaluation: whole rows, and with each all its copies.

A pure function of the data, the share and the seed, so every rank and every attempt finds the same.
"""

from __future__ import annotations

import numpy as np

from trainer.data.shards.token_store import TokenStore
from trainer.errors import UserError


def split_of(store: TokenStore, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers to train on and numbers held out.

    Raises:
        UserError: nothing can be held out without holding out all.
    """
    if not share:
        return np.arange(len(store)), np.zeros(0, np.int64)
    if store.contents is None:  # prepared before contents were noted: such a run keeps its split
        return split(len(store), share, seed)
    return split_by_label(labels_of(store.groups, store.contents), share, seed)


def split(count: int, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers to train on and to hold out, each for itself; at least one of each when 0 < share < 1 and count > 1."""
    if not share:
        return np.arange(count), np.zeros(0, np.int64)
    held = min(max(1, round(count * share)), count - 1)
    order = np.random.default_rng((seed, 2)).permutation(count)
    return np.sort(order[held:]), np.sort(order[:held])


def split_by_label(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, with conversations of one label on one side; where all labels differ, the same split as `split`.

    Labels with more conversations than are still wanted are passed over; if none fits, the smallest is held out.
    """
    _, label, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise UserError(
            "data.eval.split can hold out nothing: all rows are copies of one, or there is only one",
            remedy="name evaluation rows under data.eval.path, or remove data.eval.split",
        )
    wanted = min(max(1, round(len(labels) * share)), len(labels) - 1)
    held = np.zeros(len(sizes), bool)
    for number in np.random.default_rng((seed, 2)).permutation(len(sizes)):
        if sizes[number] <= wanted:
            held[number] = True
            wanted -= sizes[number]
        if not wanted:
            break
    if not held.any():
        held[np.argmin(sizes)] = True
    return np.flatnonzero(~held[label]), np.flatnonzero(held[label])


def labels_of(groups: np.ndarray, contents: np.ndarray) -> np.ndarray:
    """int64 [conversations]: the same for those of one row, for copies, and for all that these connect.

    Args:
        groups: the row that each conversation is a piece of.
        contents: digest of its tokens.
    """
    contents = np.unique(contents, return_inverse=True)[1]
    label_of: np.ndarray = np.arange(groups.max(initial=-1) + 1)
    while True:
        least = label_of.copy()
        least[groups] = _least(_least(label_of[groups], contents), groups)
        least = least[least]  # a label is a group, too: long chains shrink to half
        if (least == label_of).all():
            return np.asarray(label_of[groups])
        label_of = least


def _least(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The smallest label of each key, at every place of that key."""
    least = np.full(keys.max(initial=-1) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, keys, labels)
    return np.asarray(least[keys])
