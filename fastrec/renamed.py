"""Names of version 0.1 that have a better one now. They go with version 0.3."""

from .data.catalog import cold_groups as standing
from .models.base import from_range as unsquash
from .models.base import to_range as squash
from .models.context import TimeDependentBias as Mood

__all__ = ['Mood', 'squash', 'standing', 'unsquash']
