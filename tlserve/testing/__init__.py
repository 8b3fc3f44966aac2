"""The kit with which plugin authors prove their backbones: `check_plugin` in a test of their own.

Every promise of `tlserve.plugin_api` has one named check here, in the order in which they build on each
other. As with scikit-learn's `check_estimator`, passing means that tlserve can use the plugin.
"""

from tlserve.testing.kit import CHECKS, Check, check_backbone
from tlserve.testing.plugins import PLUGIN_CHECKS, PluginCheck, check_plugin
from tlserve.testing.trial import CheckFailed

__all__ = ["CHECKS", "PLUGIN_CHECKS", "Check", "CheckFailed", "PluginCheck", "check_backbone", "check_plugin"]
