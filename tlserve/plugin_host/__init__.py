"""Backbone plugins, found, loaded and turned into builds: in the trainer and in one-shot commands only.

A plugin is other people's code. Whatever it raises becomes a BackboneProblem that names it, or an entry
of the catalogue that carries its error; the process that asked goes on.
"""

from tlserve.plugin_host.build import make_build
from tlserve.plugin_host.folders import is_whole
from tlserve.plugin_host.host import PluginHost
from tlserve.plugin_host.reduce import reduce_build

__all__ = ["PluginHost", "is_whole", "make_build", "reduce_build"]
