"""A finished build -> how far its uncertainties and pairs would have come out the same a second time.

consistency: the same responses, scored twice, and with less evidence    stability: two builds over the same prompts
"""

from udasa.audit.changes import PairChanges
from udasa.audit.consistency import Comparison, Consistency, consistency
from udasa.audit.stability import Stability, resample, stability

__all__ = ["Comparison", "Consistency", "PairChanges", "Stability", "consistency", "resample", "stability"]
