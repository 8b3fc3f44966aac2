"""The kit with which plugin authors prove their backbones: `check_backbone` in a test of their own.

Every promise of `tlserve.plugin_api` has one named check here, in the order in which they build on each
other. As with scikit-learn's `check_estimator`, passing means that tlserve can use the backbone.
"""

from tlserve.testing.kit import CHECKS, Check, CheckFailed, check_backbone

__all__ = ["CHECKS", "Check", "CheckFailed", "check_backbone"]
