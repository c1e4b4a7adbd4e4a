"""Architectures, written once over seats: small_cnn, resnet, wide_resnet, mobilenet_v2."""

from rheostat.nets.base import NETS, Net, Spec, build
from rheostat.nets.mobilenet import mobilenet_v2
from rheostat.nets.residual import resnet
from rheostat.nets.small import small_cnn
from rheostat.nets.wide_residual import wide_resnet

__all__ = ["NETS", "Net", "Spec", "build", "mobilenet_v2", "resnet", "small_cnn", "wide_resnet"]
