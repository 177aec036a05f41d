"""Models trained: loaders, learners, optimizers. The wing that imports fastai."""
