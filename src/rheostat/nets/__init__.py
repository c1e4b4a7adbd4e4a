"""Architectures, written once over seats. Each file defines and registers one network and its exits."""

from rheostat.nets.base import NETS, Net, Spec, build, register
from rheostat.nets.mobilenet import mobilenet_v2
from rheostat.nets.residual import resnet
from rheostat.nets.small import small_cnn
from rheostat.nets.wide_residual import wide_resnet
from rheostat.runtime.registry import import_files

import_files(__name__, __path__)

__all__ = ["NETS", "Net", "Spec", "build", "mobilenet_v2", "register", "resnet", "small_cnn", "wide_resnet"]
