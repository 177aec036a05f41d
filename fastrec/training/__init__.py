"""Models trained: loaders, learners, optimisers. The wing that imports fastai."""
