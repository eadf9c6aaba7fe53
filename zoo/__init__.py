"""Structured channel pruning of convolutional networks: methods, baselines, and what they share.

result = zoo.prune(model, train_loader, val_loader, method="knapsack", macs=0.5)
zoo.save_pruned(result, "pruned")
model = zoo.load_pruned("pruned")
"""

from zoo.core import cifar_resnet as _cifar_resnet  # noqa: F401  (registers networks with timm)
from zoo.core.checks import check_pruner
from zoo.core.config import SubnetConfig, WidthRules
from zoo.core.cost import Budget, CostModel
from zoo.core.errors import Diverged, InfeasibleBudget, UnsupportedModel
from zoo.core.export import Exported, export_network
from zoo.core.fold import fold_batch_norm
from zoo.core.latency import LatencyTable
from zoo.core.problem import Problem
from zoo.core.prune import LatencyCheck, PruneResult, prune
from zoo.core.pruner import Pruner, Subnet, create_pruner, list_pruners
from zoo.core.save import load_pruned, save_pruned
from zoo.core.space import ChannelGroup, ChannelSpace
from zoo.core.supernet import Supernet, recalibrate
from zoo.core.surgery import rebuild
from zoo.core.timing import DamagedTable, Timing, measure_latency
from zoo.core.train import Recipe
from zoo.core.widen import widen

__all__ = [
    "Budget",
    "ChannelGroup",
    "ChannelSpace",
    "CostModel",
    "DamagedTable",
    "Diverged",
    "Exported",
    "InfeasibleBudget",
    "LatencyCheck",
    "LatencyTable",
    "Problem",
    "PruneResult",
    "Pruner",
    "Recipe",
    "Subnet",
    "SubnetConfig",
    "Supernet",
    "Timing",
    "UnsupportedModel",
    "WidthRules",
    "check_pruner",
    "create_pruner",
    "export_network",
    "fold_batch_norm",
    "list_pruners",
    "load_pruned",
    "measure_latency",
    "prune",
    "rebuild",
    "recalibrate",
    "save_pruned",
    "widen",
]
