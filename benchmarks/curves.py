"""What both sides of time_to_accuracy.py share, in fastrec's environment and in the peers'.

That is: CPU seconds with pauses, and the errors and ranks of held-out rows. numpy and scipy only.
"""

import time

import numpy as np
import scipy.sparse as sp


class Curve:
    """CPU seconds of this process against a figure of held-out rows; looking at those costs nothing."""

    def __init__(self, measure):
        self.measure = measure
        self.points = []
        self.spent = 0.0
        self.started = time.process_time()

    def look(self, *args):
        """Stop the clock, measure, go on."""
        self.spent += time.process_time() - self.started
        self.points.append([self.spent, self.measure(*args)])
        self.started = time.process_time()
        return self


class Errors:
    """RMSE of predictions for the held-out rows, clipped to the range of the training ratings.

    `train` and `held` are tables with user, item, rating.
    """

    def __init__(self, train, held):
        self.held = held
        self.target = held.rating.to_numpy(np.float64)
        self.range = (train.rating.min(), train.rating.max())

    def __call__(self, predictions):
        d = np.clip(np.asarray(predictions, np.float64).ravel(), *self.range) - self.target
        assert len(d) == len(self.target), 'a number for each held-out row'
        assert np.isfinite(d).all(), 'a number for each held-out row'
        return float((d**2).mean() ** 0.5)


class Ranking:
    """NDCG@10 of one held-out item per user over the whole catalogue, training items left out.

    Equal scores count as their mean rank. Users and items are codes.
    """

    def __init__(self, train, held, n_users, n_items):
        self.users = held.user.to_numpy()
        self.items = held.item.to_numpy()
        self.seen = sp.csr_matrix((np.ones(len(train), bool), (train.user, train.item)), shape=(n_users, n_items))

    def __call__(self, score):
        """`score`: user codes (B,) -> scores (B, n_items)."""
        total = 0.0
        for at in np.array_split(np.arange(len(self.users)), -(-len(self.users) // 512)):
            users = self.users[at]
            items = self.items[at]
            s = np.array(score(users), dtype=np.float32)
            assert s.shape == (len(at), self.seen.shape[1]), f'scores {s.shape}'
            assert np.isfinite(s).all(), f'scores {s.shape}'
            own = s[np.arange(len(at)), items][:, None]
            s[self.seen[users].toarray()] = -np.inf
            s[np.arange(len(at)), items] = -np.inf
            rank = (s > own).sum(1) + (s == own).sum(1) / 2
            total += (1 / np.log2(rank[rank < 10] + 2)).sum()
        return float(total / len(self.users))
