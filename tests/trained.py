"""For tests that look at what a learner does with its answers, not at how good they are."""


def as_trained(learn):
    """The learner, taken for trained: it answers from its random start."""
    learn.fits.append(dict(train_loss=0.0))
    return learn
